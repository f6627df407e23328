"""The host's kernel: control groups, mounts, processors, load."""
