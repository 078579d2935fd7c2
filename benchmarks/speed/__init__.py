"""Benchmarks of speed, and of what a step computes and sends."""
