"""Graph rewrites: one pass, one file, one class."""
