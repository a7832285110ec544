"""Asking caption models and checking their answers."""
