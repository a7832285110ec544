"""Captions as text: placeholders, tags, edits and variations."""
