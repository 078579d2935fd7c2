"""Checks of complete programs: disturbed runs, damaged files, short runs of every reproduction."""
