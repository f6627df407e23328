"""`sandpit sandbox`."""
