"""Upload files to the sandbox."""

import tempfile
from pathlib import Path

from sandpit import Sandbox

sandbox = Sandbox(template="base")

with tempfile.TemporaryDirectory() as folder:
    Path(folder, "data.csv").write_text("a,b\n1,2\n")
    with Path(folder, "data.csv").open("rb") as f:
        remote_path = sandbox.upload_file(f)
print(remote_path)
# output: /home/user/data.csv

print(sandbox.filesystem.read(remote_path))
# output: a,b

sandbox.close()
