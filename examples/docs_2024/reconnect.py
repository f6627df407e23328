"""Connect to running sandbox."""

import time

from sandpit import Sandbox

sandbox = Sandbox(template="base")

# Do something in the sandbox
sandbox.filesystem.write("hello.txt", "Hello World!")

# Get the sandbox ID, we'll need it later
sandbox_id = sandbox.id

# Keep alive the sandbox for 2 minutes
sandbox.keep_alive(2 * 60)

# Close the sandbox. Even if we close the sandbox, it will stay alive, because we explicitly called keep_alive().
sandbox.close()

# Do something else...
time.sleep(10)

# Reconnect to the sandbox
sandbox2 = Sandbox.reconnect(sandbox_id)

# Continue in using the sandbox
content = sandbox2.filesystem.read("hello.txt")
print(content)
# output: Hello World!

# Close the sandbox
sandbox2.close()
