"""Sandbox URL."""

from sandpit import Sandbox

sandbox = Sandbox(template="base")

url = sandbox.get_hostname()
print("https://" + url)
# output: https://i

open_port = 3000
url = sandbox.get_hostname(open_port)
print("https://" + url)
# output: https://3000-i

# The same as this server serves it
print(sandbox.get_url(open_port))
# output: http://3000-i

sandbox.close()
