"""Bundle nodes: save, load, edit, convert and trim."""
