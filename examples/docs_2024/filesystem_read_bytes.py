"""Read bytes."""

import tempfile
from pathlib import Path

from sandpit import Sandbox

sandbox = Sandbox(template="base")

# File bytes will read file's content as bytes
file_bytes = sandbox.filesystem.read_bytes("/etc/hosts")

print(file_bytes)
# output: b'

# We can save those bytes to a file locally like this:
with tempfile.TemporaryDirectory() as folder:
    Path(folder, "hosts").write_bytes(file_bytes)

sandbox.close()
