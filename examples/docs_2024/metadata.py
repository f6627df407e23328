"""Sandbox metadata."""

from sandpit import Sandbox

sandbox = Sandbox(
    template="base",
    metadata={"user_id": "uniqueID"},
)

# Keep the sandbox alive for 60 seconds
sandbox.keep_alive(60)
sandbox.close()
# You can even close the script

# Later, can be even from another process
# List all running sandboxes
running_sandboxes = Sandbox.list()
# Find the sandbox by metadata
for running_sandbox in running_sandboxes:
    if running_sandbox.metadata and running_sandbox.metadata.get("user_id") == "uniqueID":
        with Sandbox.reconnect(running_sandbox.sandbox_id) as sandbox:
            print(sandbox.process.start_and_wait("echo found").stdout)
            # output: found
        break
else:
    # Sandbox not found
    print("not found")
