"""Write bytes."""

from sandpit import Sandbox

sandbox = Sandbox(template="base")

content_in_bytes = bytearray(b"Hello World!")

# `write_bytes` accepts a bytearray and saves it to a file inside the sandbox
sandbox.filesystem.write_bytes("/file", content_in_bytes)

# We can read the file back to verify the content
file_content = sandbox.filesystem.read("/file")

print(file_content)
# output: Hello World!

sandbox.close()
