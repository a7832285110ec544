"""Helpers of the tests and of the demo: graphs in process, a real server, editor workflows."""
