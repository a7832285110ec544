"""The developer's machines behind dev.py."""
