"""Docker in a sandbox: a template whose start command makes what dockerd needs, so that every sandbox of it has a daemon at once.

For gVisor, whose root may mount; in crun nobody may. Containers have the sandbox's network, or none: packet filters are the host's matter.
Takes some minutes, the first time. Needs `pip install e2b` and the variables of `sandpit env`.
"""

from e2b import Sandbox, Template

NAME = "docker-inside"
START = """\
#!/bin/sh -e
# Control groups of the sandbox's own kernel: dockerd does not start without the one for devices.
mount -t tmpfs cgroup /sys/fs/cgroup
for group in cpu cpuacct cpuset devices memory pids; do
    mkdir "/sys/fs/cgroup/$group"
    mount -t cgroup -o "$group" cgroup "/sys/fs/cgroup/$group"
done
exec dockerd --iptables=false --ip6tables=false --bridge=none --storage-driver=vfs
"""
PROGRAM = (
    "bin lib lib64 usr/lib64 usr/bin/dash usr/bin/uname "
    "usr/lib/x86_64-linux-gnu/libc.so.6 usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2"
)

template = (
    Template()
    .from_template("base")
    .set_user("root")
    .run_cmd(
        "apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends docker.io"
    )
    .run_cmd(f"cat > /usr/local/sbin/start-docker <<'END'\n{START}END\nchmod 755 /usr/local/sbin/start-docker")
    .set_start_cmd("/usr/local/sbin/start-docker", "docker info > /dev/null 2>&1")
)
Template.build(template, NAME, memory_mb=2048)

with Sandbox.create(NAME, timeout=120) as sandbox:
    # An image of the sandbox's own files: this needs no registry.
    sandbox.commands.run(f"tar -C / -c {PROGRAM} | docker import - small", user="root")
    print(sandbox.commands.run("docker run --rm --network=host small /usr/bin/uname -s", user="root").stdout)
