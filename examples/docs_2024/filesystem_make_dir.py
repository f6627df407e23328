"""Create directory and all parent directories."""

from sandpit import Sandbox

sandbox = Sandbox(template="base")

# Create a new directory '/dir'
sandbox.filesystem.make_dir("/dir")
print("dir" in [item.name for item in sandbox.filesystem.list("/")])
# output: True

sandbox.close()
