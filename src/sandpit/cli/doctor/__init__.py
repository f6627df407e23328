"""`sandpit doctor`."""
