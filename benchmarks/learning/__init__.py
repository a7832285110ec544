"""Which method learns a concept, and at what cost to the base model."""
