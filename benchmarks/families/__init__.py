"""What works in each model family: methods trained, saved, loaded and sampled on tiny models."""
