"""Spawn and control your custom sandbox. (`my-agent-sandbox` has to exist.)"""

from sandpit import Sandbox

# Spawn your custom sandbox
sandbox = Sandbox(template="my-agent-sandbox")

print(sandbox.get_info().alias)
# output: my-agent-sandbox

# Close sandbox once done
sandbox.close()
