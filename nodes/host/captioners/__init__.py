"""Caption models: finding, loading and asking them."""
