"""Time and memory of a training step: the pack against the bare model and other trainers."""
