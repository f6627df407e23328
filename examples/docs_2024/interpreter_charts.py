"""Get charts and any display-able data."""

import base64

from sandpit import CodeInterpreter

code = """
import matplotlib.pyplot as plt
import numpy as np

x = np.linspace(0, 20, 100)
y = np.sin(x)

plt.plot(x, y)
plt.show()
"""

with CodeInterpreter() as sandbox:
    # you can install dependencies in "jupyter notebook style"
    sandbox.notebook.exec_cell("!pip install matplotlib")

    execution = sandbox.notebook.exec_cell(code)

    # this contains the image data, you can e.g. save it to file or send to frontend
    image = execution.results[0].png
    if image:
        print(execution.results[0].formats(), base64.b64decode(image)[1:4])
    # output: ['png', 'chart'] b'PNG'
