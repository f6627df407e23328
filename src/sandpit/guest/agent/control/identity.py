"""`POST /init`: the sandbox learns who it is, after boot, restore or fork (architecture, The guest)."""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import secrets
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starlette.responses import JSONResponse, Response

from sandpit.guest.agent.control.secrets import keys_of
from sandpit.guest.agent.control.snapshots import forget_freezing

if TYPE_CHECKING:
    from starlette.requests import Request

    from sandpit.guest.agent.control.journal import Journal
    from sandpit.guest.agent.control.state import AgentState

INSTANCE_FILE = Path("/run/sandpit/instance.json")
MARKS = Path("/run/e2b")
"""Where programs without the agent's environment (cron, services, `sudo`) look for it: `.E2B_SANDBOX_ID` and so on."""
_HOSTS_MARK = "# this sandbox"


async def init(request: Request) -> Response:
    """Replace the identity; 204, or 400 for a body that is not what the node sends."""
    state: AgentState = request.app.state.agent
    try:
        continues = _take(state, json.loads(await request.body()))
    except (ValueError, TypeError) as error:
        return JSONResponse({"code": 400, "message": f"bad init message: {error}"}, status_code=400)
    if not continues:
        state.journal.clear()
        request.app.state.ports.begin()
    if state.sandbox_id:
        _name_host(state.sandbox_id, state.journal)
        request.app.state.ports.poke()
    _publish(state)
    _leave_marks(state)
    forget_freezing()
    return Response(status_code=204)


def _take(state: AgentState, body: Any) -> bool:
    """Replace the identity; whether the same sandbox goes on. Raises: TypeError, ValueError."""
    if not isinstance(body, dict):
        raise TypeError("not an object")
    sandbox_id, template_id = _text(body, "sandboxID") or "", _text(body, "templateID") or ""
    if not re.fullmatch(r"[A-Za-z0-9-]{0,63}", sandbox_id):
        raise ValueError("sandboxID cannot be a host name")
    token, user, workdir = (_text(body, name) for name in ("accessToken", "defaultUser", "defaultWorkdir"))
    env = body.get("envVars") or {}
    if not isinstance(env, dict) or not all(isinstance(value, str) and name for name, value in env.items()):
        raise TypeError("envVars must map names to strings")
    keys = keys_of(body["controlKeys"]) if "controlKeys" in body else state.control
    state.control = keys  # from here on the secret of before opens nothing
    state.access_token = token or None
    state.default_user, state.default_workdir = user or "root", workdir or None
    state.sandbox_id, state.template_id = sandbox_id, template_id
    state.env = {"E2B_SANDBOX": "true", "E2B_SANDBOX_ID": sandbox_id, "E2B_TEMPLATE_ID": template_id, **env}
    continues = body.get("resumed") is True and bool(state.instance)
    if not continues:
        state.instance = secrets.token_hex(16)
        random.seed()  # a restored copy shares its state with all its siblings
    return continues


def _text(body: dict[str, Any], name: str) -> str | None:
    value = body.get(name)
    if value is not None and not isinstance(value, str):
        raise TypeError(f"{name} must be a string")
    return value


def _name_host(name: str, journal: Journal) -> None:
    """Make `name` the host name, and give the machine an id of its own."""
    try:
        if socket.gethostname() != name:
            socket.sethostname(name)
    except OSError as error:
        journal.warn(f"the kernel's host name stays: {error}")
    _write(Path("/etc/hostname"), f"{name}\n", journal)
    # The same sandbox keeps its id over pause and resume; a fork has another name, and so another id.
    _write(Path("/etc/machine-id"), hashlib.sha256(f"machine {name}".encode()).hexdigest()[:32] + "\n", journal)
    _write_hosts(name, journal)


def _write_hosts(name: str, journal: Journal) -> None:
    """Have the host name resolve: sudo complains, slowly, about one that does not."""
    hosts = Path("/etc/hosts")
    try:
        lines = hosts.read_text(errors="surrogateescape").splitlines() if hosts.exists() else ["127.0.0.1 localhost"]
    except OSError as error:
        journal.warn(f"/etc/hosts is not readable: {error}")
        return
    lines = [line for line in lines if not line.endswith(_HOSTS_MARK)]
    names = dict.fromkeys((name, socket.gethostname()))  # two, when the kernel's could not be changed
    _write(hosts, "\n".join([*lines, f"127.0.1.1 {' '.join(names)} {_HOSTS_MARK}", ""]), journal)


def use_resolver(gateway: str, journal: Journal) -> None:
    """Have names answered by the node: no other name server is reachable from every sandbox."""
    if os.getpid() != 1:
        return  # not in a sandbox: /etc is somebody else's
    path = Path("/etc/resolv.conf")
    if path.is_symlink():
        path.unlink()
    _write(path, f"nameserver {gateway}\n", journal)


def _publish(state: AgentState) -> None:
    """Tell other services of the sandbox, the interpreter first of all."""
    content = {
        "sandboxID": state.sandbox_id,
        "templateID": state.template_id,
        "instance": state.instance,
        "envVars": state.env,
    }
    temporary = INSTANCE_FILE.with_suffix(".new")
    INSTANCE_FILE.parent.mkdir(parents=True, exist_ok=True)
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with open(descriptor, "w", encoding="utf-8") as file:  # noqa: PTH123 - a descriptor
        json.dump(content, file)
    temporary.replace(INSTANCE_FILE)


def _leave_marks(state: AgentState) -> None:
    """Tell any program that it runs in a sandbox, and in which one."""
    if os.getpid() != 1:
        return  # not in a sandbox: /run is somebody else's
    marks = {"E2B_SANDBOX": "true", "E2B_SANDBOX_ID": state.sandbox_id, "E2B_TEMPLATE_ID": state.template_id}
    try:
        MARKS.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        state.journal.warn(f"{MARKS} is not there: {error}")
        return
    for name, text in marks.items():
        if text:
            _write(MARKS / f".{name}", text, state.journal)


def _write(path: Path, text: str, journal: Journal) -> None:
    """Write in place, since the file may be a mount. An image where that is impossible still works without."""
    try:
        if not path.exists() or path.read_text(errors="surrogateescape") != text:
            path.write_text(text, errors="surrogateescape")
    except OSError as error:
        journal.warn(f"{path} stays as it is: {error}")
