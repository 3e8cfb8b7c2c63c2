"""Other people's checkpoints: recognised, checked, and refused where they are not understood."""
