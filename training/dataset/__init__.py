"""The pictures and captions of a run, and the order in which it sees them."""
