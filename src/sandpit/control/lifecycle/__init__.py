"""The life of sandboxes, from create to kill."""
