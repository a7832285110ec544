"""Training nodes: concepts, adapters, optimizer, objective, the run and what watches it."""
