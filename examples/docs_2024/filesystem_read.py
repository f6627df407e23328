"""Read from file."""

from sandpit import Sandbox

sandbox = Sandbox(template="base")

file_content = sandbox.filesystem.read("/etc/hosts")
print(file_content)
# output: localhost

sandbox.close()
