"""Training steps, their compiled forms, and callbacks."""
