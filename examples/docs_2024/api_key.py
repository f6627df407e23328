"""Your API key: passed to the constructor instead of being set as a variable."""

import os

from sandpit import CodeInterpreter

YOUR_API_KEY = os.environ.get("SANDPIT_API_KEY") or os.environ["E2B_API_KEY"]

with CodeInterpreter(api_key=YOUR_API_KEY) as sandbox:
    sandbox.notebook.exec_cell("x = 1")

    execution = sandbox.notebook.exec_cell("x+=1; x")
    print(execution.text)
    # output: 2
