"""Tests that disturb runs and damage files."""
