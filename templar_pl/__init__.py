"""Train one language model with PyTorch Lightning on many machines that do not trust each other."""
