"""Reads, signal, decoding, alignment. Knows nothing of compilers."""
