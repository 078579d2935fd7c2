"""Datasets: fetch, verify, decode once, memory-map."""
