"""Start process."""

from sandpit import Sandbox

sandbox = Sandbox(template="base")

npm_init = sandbox.process.start("npm init -y")
npm_init.wait()

print(npm_init.output.stdout)
# output: Wrote to /home/user/package.json

sandbox.close()
