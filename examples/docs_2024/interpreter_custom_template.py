"""Using a custom sandbox template with the code interpreter. (`your-custom-sandbox-name` has to exist.)"""

from sandpit import CodeInterpreter

sandbox = CodeInterpreter(template="your-custom-sandbox-name")
execution = sandbox.notebook.exec_cell("print('hello')")
sandbox.close()
print(execution.logs.stdout)
# output: ['hello\n']

# Or you can use `with` which handles closing the sandbox for you
with CodeInterpreter(template="your-custom-sandbox-name") as sandbox:
    execution = sandbox.notebook.exec_cell("print('hello')")
print(execution.logs.stdout)
# output: ['hello\n']
