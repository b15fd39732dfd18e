"""Texts of emitted files."""
