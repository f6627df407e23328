"""Timeout filesystem operations."""

from sandpit import Sandbox

sandbox = Sandbox(template="base")

# Timeout 30s for the write operation
sandbox.filesystem.write("hello.txt", "Hello World!", timeout=30)

# Timeout 30s for the list operation
files = sandbox.filesystem.list(".", timeout=30)
print(files)
# output: FileInfo(name='hello.txt', is_dir=False)

# Timeout 30s for the read operation
content = sandbox.filesystem.read("hello.txt", timeout=30)
print(content)
# output: Hello World!

sandbox.close()
