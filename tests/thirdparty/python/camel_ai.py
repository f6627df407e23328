"""CAMEL's interpreter for E2B: Python with a state, Bash, and what it does not know."""

from camel.interpreters import E2BInterpreter, InterpreterError

interpreter = E2BInterpreter(require_confirm=False)
interpreter.run("x = 6", "python")
assert "42" in interpreter.run("x * 7", "python")
assert "Linux" in interpreter.run("uname -s", "bash")
assert "ZeroDivisionError" in interpreter.run("1 / 0", "python")
try:
    interpreter.run("1", "cobol")
except InterpreterError:
    pass
else:
    raise AssertionError("no error")
del interpreter
