"""Bytes to messages and back, and answers to exceptions: the parts of the protocol that know nothing of connections."""

from __future__ import annotations

import base64
import codecs
import json
import posixpath
from datetime import datetime
from typing import Any

from sandpit.protocol.connect import COMPRESSED, END_STREAM, Frames, frame
from sandpit.sdk import errors
from sandpit.sdk.models import (
    EntryInfo,
    FilesystemOperation,
    OpenPort,
    RunningSandbox,
    SandboxMetrics,
)

Json = dict[str, Any]

HOME = "/home/user"
_FRAME_BYTES = 64 << 20
"""Of one message; the agent sends at most some hundred KiB."""


class Envelopes:
    """The messages of a Connect stream, from its bytes as they come (current-protocol 4.3)."""

    def __init__(self) -> None:
        self._frames = Frames(_FRAME_BYTES)
        self.end: Json | None = None
        """The last message, which says how the stream ended."""

    def feed(self, chunk: bytes) -> list[Json]:
        """The messages that these bytes complete. Raises: ValueError: it is no such stream."""
        messages = []
        self._frames.feed(chunk)
        while (found := self._frames.take()) is not None:
            flags, payload = found
            if flags & COMPRESSED:
                raise ValueError("a compressed message, which nobody asked for")
            message = json.loads(payload)
            if flags & END_STREAM:
                self.end = message
            else:
                messages.append(message)
        return messages


class JsonLines:
    """The objects of a stream that has one per line."""

    def __init__(self) -> None:
        self._held = bytearray()

    def feed(self, chunk: bytes) -> list[Json]:
        self._held += chunk
        *lines, rest = self._held.split(b"\n")
        self._held = rest
        return [json.loads(line) for line in lines if line.strip()]


class LineDecoder:
    """Text lines of a byte stream, without their ends. What is no UTF-8 becomes U+FFFD."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""

    def feed(self, chunk: bytes, *, final: bool = False) -> list[str]:
        """The lines that these bytes complete; with `final` the last one too, though it has no end."""
        text = self._decoder.decode(chunk, final)
        if "\n" not in text and not final:
            self._held += text
            return []
        *lines, self._held = (self._held + text).split("\n")
        if final and self._held:
            lines.append(self._held)
        return lines


def text_decoder() -> codecs.IncrementalDecoder:
    """Text of a byte stream whose characters may be split."""
    return codecs.getincrementaldecoder("utf-8")("replace")


def envelope(message: Json) -> bytes:
    """The one message that a server stream is asked for with."""
    return frame(json.dumps(message).encode())


def base64_text(data: str | bytes) -> str:
    """Bytes as messages carry them; text is sent as UTF-8."""
    return base64.b64encode(data.encode() if isinstance(data, str) else data).decode("ascii")


def basic_user(user: str | None) -> dict[str, str]:
    """The header that names the Linux user of an operation; None is the template's default user."""
    return {} if user is None else {"Authorization": "Basic " + base64_text(f"{user}:")}


def resolve_path(path: str, cwd: str | None) -> str:
    """An absolute path: `~` is the home, relative paths are below the cwd, else below the home."""
    if path == "~" or path.startswith("~/"):
        path = HOME + path[1:]
    return posixpath.normpath(posixpath.join(HOME, (cwd or "").replace("~", HOME, 1), path))


def is_below(path: str, directory: str) -> bool:
    """Whether an absolute path is a directory or in it."""
    return path == directory or path.startswith(directory.rstrip("/") + "/")


def rpc_error(raises: type[errors.SandboxException], code: str, message: str) -> errors.SandboxException:
    """The exception for an error that the daemon answered (current-protocol 4.6). `raises`: the operation's own kind."""
    if code == "not_found":
        missing = errors.FileNotFoundException if raises is errors.FilesystemException else errors.NotFoundException
        return missing(message)
    if code == "unauthenticated":
        return errors.AuthenticationException(message)
    if code == "invalid_argument" and message.startswith("cwd '") and "does not exist" in message:
        return errors.CurrentWorkingDirectoryDoesntExistException(
            message, "make it first (filesystem.make_dir), or start the process in another one"
        )
    if code in ("deadline_exceeded", "canceled"):
        return errors.TimeoutException(message)
    if raises is errors.RpcException:
        return errors.RpcException(message, code=code)
    return raises(f"{message} ({code})")


_CODES = {400: "invalid_argument", 401: "unauthenticated", 403: "permission_denied", 404: "not_found",
          409: "already_exists", 429: "resource_exhausted", 501: "unimplemented", 503: "unavailable"}  # fmt: skip


def answer_code(status: int, body: bytes) -> tuple[str, str]:
    """Code and message of a failed answer: the daemon's or, of another shape, the gateway's (current-protocol 4.5)."""
    given = parsed(body)
    message = str(given.get("message") or body[:500].decode(errors="replace").strip() or f"status {status}")
    code = given.get("code")
    if isinstance(code, str):
        return code, message
    return _CODES.get(code if isinstance(code, int) else status, "unknown"), message


def parsed(body: bytes) -> Json:
    """A JSON object, or an empty one for anything else."""
    try:
        given = json.loads(body)
    except ValueError:
        return {}
    return given if isinstance(given, dict) else {}


def api_error(status: int, body: bytes, what: str) -> errors.SandboxException:
    """The exception for an answer of the REST API. `what`: what was tried, in words."""
    error = _api_error(status, body, what)
    error.status = status
    return error


def _api_error(status: int, body: bytes, what: str) -> errors.SandboxException:
    message = str(parsed(body).get("message") or body[:500].decode(errors="replace").strip() or f"status {status}")
    text = f"{what}: {message}"
    if status == 401:
        return errors.AuthenticationException(
            text, "check the API key: `sandpit env` prints one, `sandpit keys list` lists them"
        )
    if status == 404:
        return errors.NotFoundException(text)
    if status in (400, 422):
        return errors.InvalidArgumentException(text)
    if status == 429:
        return errors.RateLimitException(text, "close or kill sandboxes that are not needed (Sandbox.list()), or wait")
    return errors.SandboxException(f"{text} (status {status})")


def running_sandbox(raw: Json) -> RunningSandbox:
    """A sandbox of a list (current-protocol 3.5)."""
    return RunningSandbox(
        sandbox_id=raw["sandboxID"],
        template_id=raw["templateID"],
        alias=raw.get("alias"),
        metadata=raw.get("metadata"),
        cpu_count=raw["cpuCount"],
        memory_mb=raw["memoryMB"],
        started_at=moment(raw["startedAt"]),
        end_at=moment(raw["endAt"]),
        state=raw["state"],
        disk_mb=raw["diskSizeMB"],
    )


def metrics(raw: Json) -> SandboxMetrics:
    """A sample (current-protocol 3.8)."""
    return SandboxMetrics(
        timestamp=moment(raw["timestamp"]),
        cpu_count=raw["cpuCount"],
        cpu_used_pct=raw["cpuUsedPct"],
        mem_used=raw["memUsed"],
        mem_total=raw["memTotal"],
        disk_used=raw["diskUsed"],
        disk_total=raw["diskTotal"],
    )


def moment(text: str) -> datetime:
    """A time of RFC 3339."""
    return datetime.fromisoformat(text)


def entry_info(raw: Json) -> EntryInfo:
    """An entry of the file system (current-protocol 6.1); fields with default values may be missing."""
    kind = str(raw.get("type", "")).removeprefix("FILE_TYPE_").lower()
    return EntryInfo(
        name=raw.get("name", ""),
        path=raw.get("path", ""),
        type="dir" if kind == "directory" else "symlink" if kind == "symlink" else "file",
        size=int(raw.get("size", 0)),
        mode=raw.get("mode", 0),
        permissions=raw.get("permissions", ""),
        owner=raw.get("owner", ""),
        group=raw.get("group", ""),
        modified_time=moment(raw["modifiedTime"]) if raw.get("modifiedTime") else None,
        symlink_target=raw.get("symlinkTarget"),
        metadata=raw.get("metadata") or {},
    )


def operation(name: str) -> FilesystemOperation | None:
    """What happened, of an event's type; None for one that is not known here."""
    try:
        return FilesystemOperation(name.removeprefix("EVENT_TYPE_").capitalize())
    except ValueError:
        return None


_TCP_STATES = ("", "ESTABLISHED", "SYN_SENT", "SYN_RECV", "FIN_WAIT1", "FIN_WAIT2", "TIME_WAIT", "CLOSE",
               "CLOSE_WAIT", "LAST_ACK", "LISTEN", "CLOSING", "NEW_SYN_RECV")  # fmt: skip
"""Linux's names of the numbers in /proc/net/tcp (include/net/tcp_states.h)."""


def open_ports(table: str) -> list[OpenPort]:
    """The sockets in the text of /proc/net/tcp or tcp6."""
    ports = []
    for line in table.splitlines()[1:]:
        fields = line.split()
        if len(fields) < 4:
            continue
        address, _, port = fields[1].partition(":")
        number = int(fields[3], 16)
        state = _TCP_STATES[number] if number < len(_TCP_STATES) else f"state {number}"
        ports.append(OpenPort(_ip(address), int(port, 16), state))
    return ports


def _ip(address: str) -> str:
    """Of hexadecimal words in the machine's byte order, which is x86's."""
    import socket

    words = [bytes.fromhex(address[start : start + 8])[::-1] for start in range(0, len(address), 8)]
    return socket.inet_ntop(socket.AF_INET if len(words) == 1 else socket.AF_INET6, b"".join(words))
