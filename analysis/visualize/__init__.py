"""Pictures of what a network has learnt."""
