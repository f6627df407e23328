"""Logs of sandboxes and of builds."""
