"""The process service: `process.Process` (current-protocol 5)."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import shlex
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sandpit.guest.agent import fields
from sandpit.guest.agent.accounts import resolve_path
from sandpit.guest.agent.connect import Call, client_stream, server_stream, unary
from sandpit.guest.agent.connect_wire import ConnectError, Message
from sandpit.guest.agent.process import start_log
from sandpit.guest.agent.process.processes import Config, Process, ProcessTable
from sandpit.guest.agent.process.spawn import Command, WorkingDirectoryError, resize, tell_resized

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator

    from starlette.routing import BaseRoute

    from sandpit.guest.agent.accounts import Account
    from sandpit.guest.agent.control.journal import Journal
    from sandpit.guest.agent.process.pipes import InputPipe

_DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_SIGNALS = {
    "SIGNAL_SIGKILL": signal.SIGKILL,
    "SIGNAL_SIGTERM": signal.SIGTERM,
    9: signal.SIGKILL,
    15: signal.SIGTERM,
}
_EXHAUSTED = frozenset({errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.ENOSPC})
_KILL_WAIT_S = 2.0


def routes(table: ProcessTable) -> list[BaseRoute]:
    """The routes of `process.Process`."""
    service = ProcessService(table)
    return [
        server_stream("/process.Process/Start", service.start),
        server_stream("/process.Process/Connect", service.connect),
        unary("/process.Process/List", service.list),
        unary("/process.Process/Update", service.update),
        unary("/process.Process/SendInput", service.send_input),
        client_stream("/process.Process/StreamInput", service.stream_input),
        unary("/process.Process/SendSignal", service.send_signal),
        unary("/process.Process/CloseStdin", service.close_stdin),
    ]


class ProcessService:
    """The methods of the service, on one process table."""

    def __init__(self, table: ProcessTable) -> None:
        self._table = table
        self._start_log: start_log.StartLog | None = None

    async def start(self, message: Message, call: Call) -> AsyncGenerator[bytes, None]:
        """Start a process and stream its events. The deadline is the process's; going away leaves it running."""
        config = _config(message)
        self._table.reap()  # what died before this command is gone for it
        process = _start(self._table, config, _command(message, config, call), call.state.journal)
        if call.timeout_s is not None:
            asyncio.get_running_loop().call_later(call.timeout_s, process.signal, signal.SIGKILL)
        if config.tag == start_log.TAG and os.getpid() == 1:
            self._start_log = start_log.StartLog(process)
        async with contextlib.aclosing(process.subscribe(call.keepalive_s).events()) as events:
            async for event in events:
                yield event

    async def connect(self, message: Message, call: Call) -> AsyncGenerator[bytes, None]:
        """Stream the events of a process that was started before.

        With `past`, a field of Sandpit's own, the start command's begin with its kept output, also when it ended long ago.
        """
        if fields.optional(message, "past", bool) and (kept := self._start_log_of(message)) is not None:
            process, past = kept.process, kept.past()
        else:
            process, past = self._select(message, exited=True), []
        async with contextlib.aclosing(process.subscribe(call.keepalive_s).events()) as events:
            yield await anext(events)
            for event in past:
                yield event
            async for event in events:
                yield event

    async def list(self, _message: Message, _call: Call) -> Message:
        """The running processes, with what they were started with."""
        return {"processes": [_info(process) for process in self._table.running()]}

    async def update(self, message: Message, _call: Call) -> Message:
        """Resize a terminal."""
        process = self._select(message)
        pty = fields.optional(message, "pty", dict)
        if pty is None:
            return {}
        if not process.has_terminal or process.input is None or process.input.fd is None:
            raise ConnectError("failed_precondition", "the process has no terminal to resize")
        resize(process.input.fd, *_size(pty))
        tell_resized(process.input.fd, process.pid)
        return {}

    async def send_input(self, message: Message, _call: Call) -> Message:
        """Write to standard input or the terminal."""
        await _write(self._select(message), message)
        return {}

    async def stream_input(self, messages: AsyncIterator[Message], _call: Call) -> Message:
        """Write a stream of input: `start` selects the process, `data` is written, `keepalive` is ignored."""
        process: Process | None = None
        async for message in messages:
            if (start := fields.optional(message, "start", dict)) is not None:
                process = self._select(start)
            elif (data := fields.optional(message, "data", dict)) is not None:
                if process is None:
                    raise ConnectError("invalid_argument", "the stream's first message must be `start`")
                await _write(process, data)
        return {}

    async def send_signal(self, message: Message, _call: Call) -> Message:
        """Send SIGKILL or SIGTERM. After SIGKILL the process is gone when the answer comes: its pid is free."""
        process = self._select(message)
        number = _SIGNALS.get(fields.optional(message, "signal", object))
        if number is None:
            raise ConnectError("unimplemented", "only SIGNAL_SIGKILL and SIGNAL_SIGTERM can be sent")
        process.signal(number)
        if number == signal.SIGKILL:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_KILL_WAIT_S):
                    await process.wait()
        return {}

    async def close_stdin(self, message: Message, _call: Call) -> Message:
        """End the standard input of a process."""
        process = self._select(message)
        if process.has_terminal:
            raise ConnectError("failed_precondition", "a terminal's input cannot be closed; send the byte 0x04 (^D)")
        await _input(process).end()
        return {}

    def _start_log_of(self, message: Message) -> start_log.StartLog | None:
        selector = fields.optional(message, "process", dict) or {}
        return self._start_log if fields.optional(selector, "tag", str) == start_log.TAG else None

    def _select(self, message: Message, *, exited: bool = False) -> Process:
        selector = fields.optional(message, "process", dict) or {}
        pid, tag = fields.uint32(selector, "pid"), fields.optional(selector, "tag", str)
        if pid is None and tag is None:
            raise ConnectError("unimplemented", "the message selects no process: give a pid or a tag")
        process = self._table.find(pid=pid, tag=tag)
        if process is None or not (process.running or exited):
            name = f"pid {pid}" if pid is not None else f"tag {tag}"
            raise ConnectError("not_found", f"process with {name} not found")
        return process


def _config(message: Message) -> Config:
    process = fields.optional(message, "process", dict) or {}
    args = fields.optional(process, "args", list) or []
    envs = fields.optional(process, "envs", dict) or {}
    cmd = fields.text(process, "cmd")
    if not all(isinstance(value, str) for value in (*args, *envs.values())):
        raise ConnectError("invalid_argument", "arguments and environment values must be strings")
    if not cmd:
        raise ConnectError("invalid_argument", "the command is empty")
    if (bad := next((name for name in envs if not name or "=" in name), None)) is not None:
        raise ConnectError("invalid_argument", f"not a name of an environment variable: {bad!r}")
    cwd, tag = fields.optional(process, "cwd", str), fields.optional(message, "tag", str)
    return Config(cmd, args, envs, cwd, tag)


def _command(message: Message, config: Config, call: Call) -> Command:
    account = call.account
    env = {
        "PATH": os.environ.get("PATH", _DEFAULT_PATH),
        "HOME": account.home,
        "USER": account.name,
        "LOGNAME": account.name,
        **call.state.env,
        **config.envs,
    }
    pty = fields.optional(message, "pty", dict)
    return Command(
        argv=[config.cmd, *config.args],
        env=env,
        cwd=_working_directory(config, account, call.state.default_workdir),
        account=account,
        # Unset means a pipe: clients before the field existed could always write.
        stdin=fields.optional(message, "stdin", bool) is not False,
        terminal=None if pty is None else _size(pty),
    )


def _working_directory(config: Config, account: Account, default: str | None) -> str:
    """What was asked for (5.3); else the default, or `/` in an image that lacks it."""
    path = resolve_path(config.cwd or "", account, default)
    return path if config.cwd or Path(path).is_dir() else "/"


def _start(table: ProcessTable, config: Config, command: Command, journal: Journal) -> Process:
    """Start, with the service's errors (5.3)."""
    try:
        return _try_start(table, config, command)
    except ConnectError as error:
        journal.add(
            "process", "warn", "process could not be started", cmd=shlex.join(command.argv), reason=error.message
        )
        raise


def _try_start(table: ProcessTable, config: Config, command: Command) -> Process:
    try:
        return table.start(config, command)
    except WorkingDirectoryError as error:
        if error.errno == errno.ENOENT:
            raise ConnectError("invalid_argument", f"cwd '{error.path}' does not exist") from None
        code = "permission_denied" if error.errno in (errno.EACCES, errno.EPERM) else "invalid_argument"
        raise ConnectError(code, f"cwd '{error.path}' cannot be entered: {os.strerror(error.errno)}") from None
    except OSError as error:
        code = "resource_exhausted" if error.errno in _EXHAUSTED else "invalid_argument"
        raise ConnectError(code, f"cannot start '{config.cmd}': {error.strerror}") from None
    except ValueError as error:  # a NUL byte, or text that is no Unicode
        raise ConnectError("invalid_argument", f"cannot start '{config.cmd}': {error}") from None


def _size(pty: Message) -> tuple[int, int]:
    size = fields.optional(pty, "size", dict) or {}
    return fields.uint32(size, "cols") or 0, fields.uint32(size, "rows") or 0


def _input(process: Process) -> InputPipe:
    if process.input is None or process.input.fd is None:
        raise ConnectError("failed_precondition", "the process has no open standard input: start it with stdin enabled")
    return process.input


async def _write(process: Process, message: Message) -> None:
    given = fields.optional(message, "input", dict) or {}
    kind = "pty" if process.has_terminal else "stdin"
    data = fields.data(given, kind)
    if data is None:
        if given:
            raise ConnectError("failed_precondition", f"the process takes its input as `{kind}`")
        raise ConnectError("unimplemented", "the message holds no input")
    try:
        await _input(process).write(data)
    except BrokenPipeError:
        raise ConnectError("failed_precondition", "the process reads its standard input no more") from None


def _info(process: Process) -> dict[str, Any]:
    config = process.config
    described: dict[str, Any] = {"cmd": config.cmd, "args": config.args, "envs": config.envs}
    if config.cwd is not None:
        described["cwd"] = config.cwd
    info: dict[str, Any] = {"config": described, "pid": process.pid}
    if config.tag is not None:
        info["tag"] = config.tag
    return info
