"""Processes that clients start, and the template's start command."""
