"""What a sandbox's /usr/bin/sudo runs: hands everything that this process is to the agent, and stays until the real sudo ends.

`argv[1]` is the name that it was called by, `sudo` or `sudoedit`. Imports little: every `sudo` waits for it.
"""

import os
import signal
import socket
import sys
import time

SOCKET = "/run/sandpit/sudo.sock"
_FORWARDED = ("SIGHUP", "SIGINT", "SIGQUIT", "SIGTERM", "SIGUSR1", "SIGUSR2", "SIGALRM", "SIGCONT", "SIGWINCH")
_LOOK_AGAIN_MS = 300


def main() -> None:
    """Run; the exit status, or the signal that ends this process, is that of the real sudo."""
    _open_missing()
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    terminal = None
    try:
        _connect(connection)
        if not connection.recv(1):  # what is sent from now on tells who we are
            sys.exit("sudo: too many at once; try again")
        if os.isatty(0) and os.isatty(1):
            from sandpit.guest.sudo.terminal import open_terminal

            terminal = open_terminal()
        answer = _ask(connection, terminal) or _wait(connection, terminal)
    except OSError as error:
        sys.exit(f"sudo: the sandbox's agent does not answer: {error}")
    finally:
        if terminal is not None:
            terminal.close()
    kind, _, value = answer.partition(" ")
    if kind == "signal":
        number = int(value)
        if number not in (signal.SIGKILL, signal.SIGSTOP):  # they have no handlers
            signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
    if kind != "exit":
        sys.exit(f"sudo: {value or 'the agent of this sandbox went away'}")
    os._exit(int(value))


def _open_missing() -> None:
    """Give standard descriptors that are closed something harmless, before anything else gets their numbers."""
    for fd in (0, 1, 2):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free


def _connect(connection) -> None:  # type: ignore[no-untyped-def]
    """Wait a little for a place in the agent's queue: gVisor answers EAGAIN when it is full, where Linux waits."""
    for _ in range(100):
        try:
            connection.connect(SOCKET)
        except BlockingIOError:
            time.sleep(0.02)
        else:
            return
    raise BlockingIOError("too many ask at once")


def _ask(connection, terminal) -> str:  # type: ignore[no-untyped-def]
    """Send our working directory and standard descriptors, then, when we may, the request; else returns the answer."""
    umask = os.umask(0o022)
    arguments = [os.fsencode(argument) for argument in sys.argv[1:]]
    variables = [name + b"=" + value for name, value in os.environb.items()]
    fields = [b"%o %d %d" % (umask, terminal is not None, len(arguments)), *arguments, *variables, b""]
    payload = b"\0".join(fields)
    cwd = _directory()
    own = [terminal.inner if terminal is not None and os.isatty(fd) else fd for fd in (0, 1, 2)]
    socket.send_fds(connection, [len(payload).to_bytes(4, "big")], [cwd, *own])
    os.close(cwd)
    answer = _line(connection)
    if answer != "go on":
        return answer or "error"
    connection.sendall(payload)
    return ""


def _directory() -> int:
    """The working directory; the root directory if this user may not enter it."""
    try:
        return os.open(".", os.O_PATH | os.O_DIRECTORY)
    except OSError:
        return os.open("/", os.O_PATH | os.O_DIRECTORY)


def _line(connection) -> str:  # type: ignore[no-untyped-def]
    """The next line; empty if the agent went away."""
    line = b""
    while not line.endswith(b"\n"):
        chunk = connection.recv(4096)
        if not chunk:
            return ""
        line += chunk
    return line[:-1].decode(errors="replace")


def _wait(connection, terminal) -> str:  # type: ignore[no-untyped-def]
    """Carry signals, and a terminal's bytes, until the answer is there."""
    import select

    signals = _listen_for_signals()
    if terminal is not None:
        terminal.begin()
    while True:
        poll = select.poll()
        for fd in (connection.fileno(), signals):
            poll.register(fd, select.POLLIN)
        if terminal is not None:
            terminal.register(poll)
        for fd, _ in poll.poll(_LOOK_AGAIN_MS if terminal is not None and not terminal.in_front else None):
            if fd == connection.fileno():
                return _line(connection) or "error"
            if fd == signals:
                numbers = os.read(signals, 64)
                if terminal is not None:
                    terminal.on_signals(numbers)
                connection.sendall(numbers)
        if terminal is not None:
            terminal.carry()


def _listen_for_signals() -> int:
    """Have signals written to a pipe; returns its other end. What our caller had ignored (`nohup`) stays ignored."""
    read, write = os.pipe()
    os.set_blocking(write, False)
    signal.set_wakeup_fd(write)
    for name in _FORWARDED:
        number = getattr(signal, name)
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, lambda *_: None)
    return read


if __name__ == "__main__":
    main()
