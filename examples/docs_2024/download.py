"""Download files from the sandbox."""

import tempfile
from pathlib import Path

from sandpit import Sandbox

sandbox = Sandbox(template="base")
sandbox.filesystem.make_dir("path/to/remote/file")
sandbox.filesystem.write("path/to/remote/file/inside-sandbox", "Hello World")

file_in_bytes = sandbox.download_file("path/to/remote/file/inside-sandbox")
# Save file to local filesystem
with tempfile.TemporaryDirectory() as folder:
    local = Path(folder, "local-file")
    local.write_bytes(file_in_bytes)
    print(local.read_text())
# output: Hello World

sandbox.close()
