"""Reads a Core ML package from disk and executes it, knowing nothing of how it was made."""
