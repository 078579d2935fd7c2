"""Searches that train: sweeps and the learning-rate range test."""
