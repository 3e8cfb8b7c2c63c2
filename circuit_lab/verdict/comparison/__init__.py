"""Two checkpoints side by side: differences with intervals, and whether they use the same path."""
