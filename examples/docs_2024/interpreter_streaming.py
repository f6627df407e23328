"""Streaming code output."""

import sys

from sandpit import CodeInterpreter

code = """
import time
import pandas as pd

print("hello")
time.sleep(3)
data = pd.DataFrame(data=[[1, 2], [3, 4]], columns=["A", "B"])
display(data.head(10))
time.sleep(3)
print("world")
"""

with CodeInterpreter() as sandbox:
    sandbox.notebook.exec_cell(
        code,
        on_stdout=print,
        on_stderr=lambda err: print(err, file=sys.stderr),
        on_result=lambda result: print(result.text),
    )
    # output: hello
    # output: 0  1  2
    # output: world
