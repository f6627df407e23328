"""Code execution."""

from sandpit import CodeInterpreter

code = 'print("Hello, World!")'

with CodeInterpreter() as sandbox:
    execution = sandbox.notebook.exec_cell(code)
    print(execution.logs)
    # output: stdout=['Hello, World!\n'] stderr=[]
