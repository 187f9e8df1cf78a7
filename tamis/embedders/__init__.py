"""Embedders: one file each, found by name."""
