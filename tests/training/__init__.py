"""The engine without a host: every part it borrows is a toy."""
