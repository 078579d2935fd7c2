"""Experiments, one file each. default.py lists and explains every field."""
