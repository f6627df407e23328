"""Connecting a bucket to the sandbox: what comes before the mount. (s3fs itself is in a template of one's own.)"""

from sandpit import Sandbox

sandbox = Sandbox(template="base")
sandbox.filesystem.make_dir("/home/user/bucket")

# Create a file with the credentials
# If you use another path for the credentials you need to add the path in the command s3fs command
sandbox.filesystem.write("/root/.passwd-s3fs", "<AWS_ACCESS_KEY_ID>:<AWS_SECRET_ACCESS_KEY>")
output = sandbox.process.start_and_wait("sudo chmod 600 /root/.passwd-s3fs && sudo stat -c %a /root/.passwd-s3fs")
print(output.stdout)
# output: 600

process = sandbox.process.start(
    "sudo s3fs <bucket-name> /home/user/bucket -o allow_other".replace("<bucket-name>", "name")
)
output = process.wait()
if output.exit_code:
    print(output.stderr)
# output: sudo: s3fs: command not found

sandbox.close()
