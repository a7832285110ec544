"""Optimizers, learning rate schedules, averaging and rounding."""
