"""Dataset nodes: load, check, caption, edit and review pictures."""
