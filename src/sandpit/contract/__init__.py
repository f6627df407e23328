"""The interfaces between the parts: plain data and protocols."""
