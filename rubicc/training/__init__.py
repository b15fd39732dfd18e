"""Training of any graph: its torch twin, losses, data and the loop."""
