"""Evaluation nodes: grids and scores."""
