"""Sandpit: self-hosted sandboxes for AI-generated code."""

__version__ = "0.1.0"
