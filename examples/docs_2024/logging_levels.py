"""Logging: only warnings and errors are logged by default."""

import logging
import sys

from sandpit import Sandbox

handler = logging.StreamHandler(sys.stdout)
handler.setFormatter(logging.Formatter("%(levelname)s - %(message)s"))
sdk_logger = logging.getLogger("sandpit.sdk")
sdk_logger.setLevel(logging.INFO)
sdk_logger.addHandler(handler)

with Sandbox(template="base"):
    pass
# output: INFO - sandbox

# Or give a sandbox a logger of its own
own = logging.getLogger("my-app")
own.setLevel(logging.INFO)
own.addHandler(handler)

with Sandbox(template="base", logger=own) as sandbox:
    sandbox.process.start_and_wait("true")
# output: INFO - process
