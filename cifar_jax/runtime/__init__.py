"""Console, signals, processes and start-up."""
