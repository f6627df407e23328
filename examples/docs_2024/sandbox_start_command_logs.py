"""Check start command logs. (The start command of `my-agent-sandbox` has to print something again and again.)"""

import time

from sandpit import Sandbox

# If you specify on_stderr and on_stdout handlers when spawning the sandbox
# you will see logs from the start command.
sandbox = Sandbox(
    template="my-agent-sandbox",
    on_stderr=lambda output: print("[stderr]", output),
    on_stdout=lambda output: print("[stdout]", output),
)

time.sleep(3)

# Close sandbox once done
sandbox.close()
# output: [stdout] starting
# output: [stdout] serving
# output: [stderr] warning
