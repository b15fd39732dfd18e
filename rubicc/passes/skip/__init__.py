"""Residual connections: finding, removing and folding them. Knows the graph only."""
