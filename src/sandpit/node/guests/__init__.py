"""Calls to the agents in sandboxes; everything they answer is hostile."""
