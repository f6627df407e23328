"""Sandboxes started ahead of demand, and who may start now."""
