"""The life of the sandboxes of one machine."""
