"""Commands that run and inspect the server of this machine."""
