"""`sandpit template`."""
