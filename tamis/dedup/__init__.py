"""Deduplicators: one file each, found by name."""
