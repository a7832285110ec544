"""Other ways to compute a step, each timed against the one that the pack uses."""
