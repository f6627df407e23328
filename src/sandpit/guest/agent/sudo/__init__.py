"""`sudo` where the kernel ignores set-user-ID."""
