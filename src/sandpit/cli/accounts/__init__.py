"""Signing in, keys and teams."""
