"""Measurements of datasets and captions."""
