"""Pruning as graph passes: coupled channels found and cut out, single weights set to zero."""
