"""Alembic migrations, run in-process when a server starts."""
