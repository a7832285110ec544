"""Seconds and memory of a training step, ours beside the floor and the peers."""
