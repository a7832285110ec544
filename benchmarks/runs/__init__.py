"""Runs that are killed, cancelled, refused the disk and watched: what they lose, what it costs."""
