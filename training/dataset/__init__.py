"""The pictures and captions that a run learns from, and the order in which it sees them."""
