"""Timeout process."""

from sandpit import Sandbox

sandbox = Sandbox(template="base")

# Timeout 30s for the process to start
npm_init = sandbox.process.start(
    "npm init -y",
    timeout=30,
)
npm_init.wait()
print(npm_init.exit_code)
# output: 0

sandbox.close()
