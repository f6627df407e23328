"""Checks of the machine around the kernel: programs, runtimes, room, network, ports."""

from __future__ import annotations

import hashlib
import json
import os
import resource
import socket
import stat
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from sandpit.cli.doctor.checks import Check, Result, existing, output
from sandpit.cli.server.local import find_process
from sandpit.lib import programs
from sandpit.node.runtime import holes
from sandpit.server.tls import usable_hosts

if TYPE_CHECKING:
    from sandpit.server.settings import Settings

_GIB = 1 << 30
_DISK_NEEDED, _DISK_WANTED = 2 * _GIB, 15 * _GIB
_MEMORY_WANTED = 2 * _GIB
_INOTIFY = {"max_user_instances": 128, "max_user_watches": 65536}
_FILES_WANTED = 4096
_LOCALHOST_FIX = (
    "apt-get install libnss-myhostname, which adds `myhostname` to the line `hosts:` of /etc/nsswitch.conf; "
    "elsewhere use systemd-resolved, or a domain of your own (docs/legacy.md)"
)
_TEST_NAME = "example.com"
"""Reserved for such uses (RFC 2606)."""


def _root(_: Settings) -> Result:
    if os.geteuid() != 0:
        return Result("failed", f"this is user {os.geteuid()}", "run the server, and this check, with sudo")
    return Result("ok", "yes")


def _programs(_: Settings) -> Result:
    from sandpit.provision.hosttools import missing_packages

    if missing := missing_packages():
        fix = f"sandpit prepare, or: apt-get install --no-install-recommends {' '.join(missing)}"
        return Result("failed", f"missing packages: {', '.join(missing)}", fix)
    return Result("ok", "all there")


def _gvisor(settings: Settings) -> Result:
    from sandpit.provision.hosttools import runsc_version
    from sandpit.server.assemble import find_runsc

    if settings.runtime == "crun":
        return Result("ok", "not used: SANDPIT_RUNTIME is crun")
    binary = find_runsc(settings.data_dir)
    if binary is None:
        return Result("failed", "runsc is not installed", "sandpit prepare")
    version = runsc_version(binary)
    if version is None:
        return Result("failed", f"{binary} does not run", f"remove {binary} and call: sandpit prepare")
    with binary.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return Result("ok", f"{version}, {binary} ({digest[:12]}); the server tests it before the first use")


def _gvisor_holes(settings: Settings) -> Result:
    from sandpit.provision.hosttools import runsc_version
    from sandpit.server.assemble import find_runsc

    binary = find_runsc(settings.data_dir) if settings.runtime != "crun" else None
    version = runsc_version(binary) if binary is not None else None
    if version is None:
        return Result("ok", "not used")
    if (words := holes.describe(version)) is not None:
        return Result("warning", words, holes.CURRENT)
    return Result("ok", f"none known of {version}")


def _crun(_: Settings) -> Result:
    binary = programs.find("crun")
    if binary is None:
        return Result("failed", "not installed", "sandpit prepare")
    version = output(binary, "--version").partition("\n")[0]
    number, hole = holes.crun_number(version), holes.CRUN_UNUSED
    if number is None:
        return Result("ok", f"{version}; whether it has {hole.name} is unknown: it {hole.what}")
    return Result("ok", f"{version}; {hole.name} {hole.what}" if number < hole.fixed else version)


def _run_directory(settings: Settings) -> Result:
    """Root of a crun sandbox's user namespace is somebody else to the host, and must get to `run_dir/stage`."""
    there = existing(settings.run_dir.absolute())
    for folder in (there, *there.parents):
        if not folder.stat().st_mode & stat.S_IXOTH:
            fix = f"chmod o+x {folder}, or set SANDPIT_RUN_DIR"
            return Result("warning", f"others cannot pass through {folder}: crun sandboxes will not start", fix)
    return Result("ok", f"{settings.run_dir}: others can pass through")


def _templates(settings: Settings) -> Result:
    images = (settings.data_dir / "images").glob("*/image.json")
    names = {str(json.loads(image.read_text())["names"][0]) for image in images}
    if not names:
        return Result("failed", f"none below {settings.data_dir}", "sandpit prepare")
    return Result("ok", ", ".join(sorted(names)))


def _kvm(_: Settings) -> Result:
    return Result("ok", "there, and not used" if Path("/dev/kvm").exists() else "not there, and not needed")


def _disk(settings: Settings) -> Result:
    from sandpit.lib.diskspace import DiskSpace

    room = DiskSpace(settings.disk_reserve_mb).look(existing(settings.data_dir))
    free, reserve = room.free, room.reserve
    detail = f"{free / _GIB:.1f} GiB free for {settings.data_dir}, {reserve / _GIB:.1f} of them kept in reserve"
    fix = (
        "free some, or set SANDPIT_DATA_DIR to a larger file system, or SANDPIT_DISK_RESERVE_MB to keep less in reserve"
    )
    if free - reserve < _DISK_NEEDED:
        return Result("failed", detail, fix)
    return Result("ok", detail) if free >= _DISK_WANTED else Result("warning", f"{detail}: templates need 8 GiB", fix)


def _share(settings: Settings) -> Result:
    """Whether sandboxes leave the server processors and memory: the limits of their group are in force while a server runs."""
    from sandpit.node.host.share import Share
    from sandpit.server.assemble import node_config

    share = Share(node_config(settings))
    detail = f"{share.limits.cpus:g} processors and {share.limits.memory_mb} MiB for all sandboxes together"
    if (process := find_process(settings)) is None:
        return Result("ok", f"{detail}, once a server runs")
    process.close()
    if wrong := share.differences():
        return Result("failed", f"not in force: {wrong}", "sandpit down, then sandpit up: sandboxes go on")
    return Result("ok", detail)


def _memory(_: Settings) -> Result:
    import psutil

    memory = psutil.virtual_memory()
    detail = f"{memory.available / _GIB:.1f} of {memory.total / _GIB:.1f} GiB available"
    if memory.available < _MEMORY_WANTED:
        return Result("warning", detail, "free some: a code interpreter sandbox may use 2 GiB")
    return Result("ok", detail)


def _descriptors(_: Settings) -> Result:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard != resource.RLIM_INFINITY and hard < _FILES_WANTED:
        return Result("warning", f"at most {hard}", f"ulimit -Hn {_FILES_WANTED * 16} before the server starts")
    return Result("ok", "no limit" if hard == resource.RLIM_INFINITY else f"at most {hard}")


def _inotify(_: Settings) -> Result:
    low = []
    for name, wanted in _INOTIFY.items():
        if (value := int(Path(f"/proc/sys/fs/inotify/{name}").read_text())) < wanted:
            low.append(f"fs.inotify.{name}={value}")
    if low:
        fix = "sysctl -w " + " ".join(f"fs.inotify.{name}={value * 8}" for name, value in _INOTIFY.items())
        return Result("warning", f"{', '.join(low)}: watching in crun sandboxes may fail", fix)
    return Result("ok", "enough")


def _other_firewalls(settings: Settings) -> Result:
    dropping = []
    for item in json.loads(output("nft", "-j", "list", "chains"))["nftables"]:
        chain = item.get("chain", {})
        if chain.get("hook") == "forward" and chain.get("policy") == "drop":
            dropping.append((chain["family"], chain["table"], chain["name"]))
    links = f"{settings.node_name}-+"
    if ("ip", "filter", "FORWARD") in dropping or _legacy_drops():
        fix = f"iptables -I FORWARD -i {links} -j ACCEPT; iptables -I FORWARD -o {links} -j ACCEPT"
        return Result("warning", "iptables drops forwarded packets (Docker does that): sandboxes have no internet", fix)
    if dropping:
        family, table, name = dropping[0]
        rule = f"nft insert rule {family} {table} {name}"
        fix = f'{rule} iifname "{links[:-1]}*" accept; {rule} oifname "{links[:-1]}*" accept'
        return Result("warning", f"{family} {table} {name} drops forwarded packets: sandboxes have no internet", fix)
    return Result("ok", "none drops forwarded packets")


def _legacy_drops() -> bool:
    """Whether the older iptables back end, which nft does not show, drops what is forwarded."""
    program = programs.find("iptables-legacy")
    if program is None or not Path("/proc/net/ip_tables_names").exists():
        return False
    if "filter" not in Path("/proc/net/ip_tables_names").read_text().split():
        return False
    return "-P FORWARD DROP" in output(program, "-S", "FORWARD")


def _names(_: Settings) -> Result:
    fix = "mend /etc/resolv.conf: sandboxes ask this machine's name servers"
    try:
        found = output("getent", "ahosts", _TEST_NAME)
    except subprocess.CalledProcessError:
        return Result("warning", f"{_TEST_NAME} has no address: sandboxes will not resolve names either", fix)
    return Result("ok", f"{_TEST_NAME} is {found.split()[0]}")


def _localhost_names(settings: Settings) -> Result:
    if not settings.tls or not settings.tls_domain.endswith(".localhost"):
        return Result("ok", "not used")
    name = f"api.{settings.tls_domain}"
    try:
        found = {line.split()[0] for line in output("getent", "ahosts", name).splitlines()}
    except subprocess.CalledProcessError:
        found = set()
    if found & {"127.0.0.1", "::1"}:
        return Result("ok", f"{name} is {' and '.join(sorted(found))}")
    return Result("warning", f"{name} has no address here: clients of 2024 cannot find the server", _LOCALHOST_FIX)


def _ports(settings: Settings) -> Result:
    if (process := find_process(settings)) is not None:
        process.close()
        return Result("ok", f"the server has them (pid {process.pid})")
    wanted = [
        (settings.api_host, settings.api_port, "SANDPIT_API_PORT"),
        (settings.edge_host, settings.edge_port, "SANDPIT_EDGE_PORT"),
    ]
    if settings.tls:
        wanted += [(host, settings.tls_port, "SANDPIT_TLS_PORT") for host in usable_hosts(settings.tls_host)]
    for host, port, name in wanted:
        try:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            socket.create_server((host, port), family=family).close()
        except OSError as error:
            return Result("failed", f"{host}:{port}: {error.strerror}", f"see `ss -ltnp`, or set {name}")
    return Result("ok", f"{', '.join(str(port) for port in sorted({port for _, port, _ in wanted}))} are free")


FIRST = (Check("root", _root),)
LAST = (
    Check("programs", _programs),
    Check("gVisor", _gvisor, "sandpit prepare"),
    Check("gVisor's holes", _gvisor_holes, holes.CURRENT, required=False),
    Check("crun", _crun, "sandpit prepare", required=False),
    Check("run directory", _run_directory, required=False),
    Check("templates", _templates, "sandpit prepare", required=False),
    Check("KVM", _kvm),
    Check("disk", _disk),
    Check("memory", _memory),
    Check("sandboxes' share", _share, "sandpit down, then sandpit up: sandboxes go on", root=True),
    Check("open files", _descriptors),
    Check("inotify", _inotify, required=False),
    Check("other firewalls", _other_firewalls, "install nftables", required=False, root=True),
    Check("names", _names, required=False),
    Check("localhost names", _localhost_names, _LOCALHOST_FIX, required=False),
    Check("ports", _ports),
)
