"""Pure tensors: momentum in coefficient space, what of it is sent, and the exact update."""
