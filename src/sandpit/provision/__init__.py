"""Making a machine ready: host tools, guest closure, built-in templates."""
