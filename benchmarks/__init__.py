"""Measurements of a real server, each beside its own reference from the same run (docs/benchmarks.md)."""
