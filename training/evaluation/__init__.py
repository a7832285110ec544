"""Scores, grids and plots of what was learned."""
