"""List directory."""

from sandpit import Sandbox

sandbox = Sandbox(template="base")

dir_content = sandbox.filesystem.list("/")
for item in dir_content:
    print(item.name, item.is_dir)
# output: home True

sandbox.close()
