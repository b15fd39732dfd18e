"""Layout passes: the same function on tensors arranged as the hardware likes them."""
