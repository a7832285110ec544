"""Tiny caption models, embeddings and pictures."""
