"""Sandboxes that need more memory than they have: who is killed, and who hears of it."""
