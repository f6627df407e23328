"""Starting a sandbox."""

from sandpit import Sandbox

sandbox = Sandbox()
print(sandbox.is_open)
# output: True

sandbox.close()
print(sandbox.is_open)
# output: False
