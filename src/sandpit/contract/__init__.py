"""The seams between the parts: plain data and protocols."""
