"""What each model family can do: methods trained, saved, loaded and sampled on tiny models."""
