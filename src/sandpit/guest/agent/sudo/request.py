"""What a shim sends (sandpit.guest.sudo): who asks, his descriptors, then his arguments and environment.

A head of four bytes, the payload's length, carries the descriptors. The payload follows when the shim was told that its caller may:
fields that end at a NUL, which neither an argument nor a variable can hold. Everything here is hostile until read.
"""

from __future__ import annotations

import array
import asyncio
import os
import re
import socket
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

PAYLOAD_BYTES = (2 << 20) + 4096
"""Arguments and environment are at most 2 MiB together (execve(2))."""
_DESCRIPTORS = 4
_CREDENTIALS = struct.Struct("iII")
"""struct ucred: pid, uid, gid (unix(7))."""
_LENGTH = struct.Struct(">I")
_SETTINGS = re.compile(rb"([0-7]{1,3}) ([01]) ([0-9]{1,7})")
_MALFORMED = "the request is malformed"


class RefusedError(Exception):
    """The request cannot be granted; the message is for the caller's terminal."""


@dataclass(frozen=True, slots=True)
class Head:
    """Who asks, as the kernel says. `descriptors`: working directory, standard input, output, error; the holder closes them."""

    uid: int
    size: int
    descriptors: Sequence[int]

    def close(self) -> None:
        for descriptor in self.descriptors:
            os.close(descriptor)


@dataclass(frozen=True, slots=True)
class Request:
    """What to start. `argv[0]` is `sudo` or `sudoedit`; `terminal`: the descriptors' terminal shall become the controlling one."""

    argv: list[str]
    env: Mapping[str, str]
    umask: int
    terminal: bool


async def receive_head(connection: socket.socket) -> Head:
    """The head, and who sent it. Raises: RefusedError, OSError."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    await asyncio.get_running_loop().sock_sendall(connection, b"\n")  # what is sent from now on carries credentials
    await _readable(connection)
    room = socket.CMSG_SPACE(_CREDENTIALS.size) + socket.CMSG_SPACE(4 * _DESCRIPTORS)
    head, ancillary, _, _ = connection.recvmsg(_LENGTH.size, room, socket.MSG_CMSG_CLOEXEC)
    uid: int | None = None
    descriptors = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            descriptors.frombytes(data[: len(data) - len(data) % descriptors.itemsize])
        elif level == socket.SOL_SOCKET and kind == socket.SCM_CREDENTIALS:
            uid = _CREDENTIALS.unpack(data[: _CREDENTIALS.size])[1]
    received = Head(
        -1 if uid is None else uid, _LENGTH.unpack(head)[0] if len(head) == _LENGTH.size else -1, list(descriptors)
    )
    if received.uid < 0 or received.size < 0 or len(descriptors) != _DESCRIPTORS:
        received.close()
        raise RefusedError(_MALFORMED)
    return received


async def receive_payload(connection: socket.socket, size: int) -> Request:
    """The rest. Raises: RefusedError, OSError."""
    if size > PAYLOAD_BYTES:
        raise RefusedError("arguments and environment are too long")
    payload = bytearray()
    while len(payload) < size:
        chunk = await asyncio.get_running_loop().sock_recv(connection, min(size - len(payload), 1 << 16))
        if not chunk:
            raise RefusedError("the request ended early")
        payload += chunk
    return parse(bytes(payload))


def parse(payload: bytes) -> Request:
    """`UMASK TERMINAL COUNT`, COUNT arguments, then variables. Raises: RefusedError."""
    settings, *fields = payload.split(b"\0")
    found = _SETTINGS.fullmatch(settings)
    if found is None or not fields or fields.pop() != b"":
        raise RefusedError(_MALFORMED)
    count = int(found[3])
    variables = [field.partition(b"=") for field in fields[count:]]
    if not 0 < count <= len(fields) or not all(name and equals for name, equals, _ in variables):
        raise RefusedError(_MALFORMED)
    program, *arguments = map(os.fsdecode, fields[:count])
    if program not in {"sudo", "sudoedit"}:
        raise RefusedError(_MALFORMED)
    env = {os.fsdecode(name): os.fsdecode(value) for name, _, value in variables}
    return Request([program, *arguments], env, int(found[1], 8), found[2] == b"1")


async def _readable(connection: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(connection.fileno(), ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(connection.fileno())
