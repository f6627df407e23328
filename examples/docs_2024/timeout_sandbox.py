"""Timeout creating sandbox."""

from sandpit import Sandbox

# Timeout 30s for the sandbox to open
sandbox = Sandbox(
    template="base",
    timeout=30,
)
print(sandbox.is_open)
# output: True

sandbox.close()
