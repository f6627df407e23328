"""Write to file."""

from sandpit import FilesystemException, Sandbox

sandbox = Sandbox(template="base")

# `filesystem.write()` will:
# - create the file if it doesn't exist
# - fail if any directory in the path doesn't exist
# - overwrite the file if it exists

# Write the content of the file '/hello.txt'
sandbox.filesystem.write("/hello.txt", "Hello World!")
print(sandbox.filesystem.read("/hello.txt"))
# output: Hello World!

# The following fails because '/dir' doesn't exist
try:
    sandbox.filesystem.write("/dir/hello.txt", "Hello World!")
except FilesystemException as error:
    print(error)
# output: cannot write /dir/hello.txt: the directory /dir does not exist

sandbox.close()
