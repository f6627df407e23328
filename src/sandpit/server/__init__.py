"""The server process: every part put together, its settings and certificates."""
