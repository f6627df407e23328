"""Current working directory: of the sandbox."""

from sandpit import Sandbox

sandbox = Sandbox(
    template="base",
    cwd="/code",
)
print(sandbox.process.start_and_wait("pwd").stdout)
# output: /code

# You can also change the cwd of an existing sandbox
sandbox.cwd = "/home"
print(sandbox.process.start_and_wait("pwd").stdout)
# output: /home

sandbox.close()
