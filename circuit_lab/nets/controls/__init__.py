"""Known-answer controls: nets wired by hand, whose mechanism is known because it was put there, and perturbations."""
