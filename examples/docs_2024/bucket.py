"""Connecting a bucket to the sandbox: Amazon S3, Cloudflare R2, and whatever else speaks the S3 protocol.

`my-bucket-sandbox` is a template with s3fs (docs/buckets.md). The bucket and its keys are the variables S3_BUCKET, AWS_ACCESS_KEY_ID and
AWS_SECRET_ACCESS_KEY; S3_URL is where it is, when that is not Amazon: for R2, https://<ACCOUNT ID>.r2.cloudflarestorage.com
"""

import os

from sandpit import Sandbox

sandbox = Sandbox(template="my-bucket-sandbox")
sandbox.filesystem.make_dir("/home/user/bucket")

# Create a file with the credentials
# If you use another path for the credentials you need to add the path in the command s3fs command
credentials = f"{os.environ['AWS_ACCESS_KEY_ID']}:{os.environ['AWS_SECRET_ACCESS_KEY']}"
sandbox.filesystem.write("/root/.passwd-s3fs", credentials)
sandbox.process.start_and_wait("sudo chmod 600 /root/.passwd-s3fs")

flags = "-s -o allow_other"  # one request at a time, as docs/buckets.md says; the default user may use it, too
if "S3_URL" in os.environ:
    flags += f" -o url={os.environ['S3_URL']} -o use_path_request_style"
process = sandbox.process.start(f"sudo s3fs {flags} {os.environ['S3_BUCKET']} /home/user/bucket")
output = process.wait()
if output.exit_code:
    raise RuntimeError(output.stderr)

sandbox.filesystem.write("/home/user/bucket/hello.txt", "Hello from a sandbox")
output = sandbox.process.start_and_wait("ls bucket && cat bucket/hello.txt")
print(output.stdout)
# output: hello.txt
# output: Hello from a sandbox

sandbox.close()
