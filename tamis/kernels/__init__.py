"""Buffers in, arrays out: the loops that touch every byte of every document, compiled by numba."""
