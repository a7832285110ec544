"""Caption files and tables, written and reviewed."""
