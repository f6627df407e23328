"""Global environment variables."""

from sandpit import Sandbox

sandbox = Sandbox(
    template="base",
    env_vars={"FOO": "Hello"},
)
print(sandbox.process.start_and_wait("echo $FOO").stdout)
# output: Hello

sandbox.close()
