"""The layer store."""
