"""Kills, cancels and failing disks."""
