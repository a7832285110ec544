"""Faster ways to compute a step, each timed beside the way that is built."""
