"""Environment variables per process: they have precedence over the sandbox's."""

from sandpit import Sandbox

sandbox = Sandbox(
    template="base",
    env_vars={"FOO": "Hello"},
)

proc = sandbox.process.start(
    "echo $FOO $BAR!",
    env_vars={"BAR": "World"},
)
proc.wait()
print(proc.output.stdout)
# output: Hello World!

sandbox.close()
