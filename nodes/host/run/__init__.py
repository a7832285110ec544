"""A training run, from the request to its folder."""
