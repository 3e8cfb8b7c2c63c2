"""Our checkpoints in other people's layouts."""
