"""The learning benchmark: which method learns a concept, at what cost to the base model."""
