"""Scorers: one file each, found by name."""
