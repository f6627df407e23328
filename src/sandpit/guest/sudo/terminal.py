"""A terminal of its own for the other side: it becomes the controlling one there, so that job control works.

Keys are read, and the caller's terminal is made raw, only while this process is in its foreground: in the background (`sudo ... &`) either
would stop us (SIGTTIN, SIGTTOU).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import termios
import tty

_CHUNK = 32768


def open_terminal() -> Terminal | None:
    """One beside standard input's, which must control this process; None if it does not."""
    try:
        os.tcgetpgrp(0)
        return Terminal()
    except (OSError, termios.error):
        return None


class Terminal:
    """Standard input and output on the one side, `inner` on the other. Raises: OSError when there are no more terminals."""

    def __init__(self) -> None:
        self._outer, self.inner = os.openpty()
        self._alike = False
        if self._controlled():
            self._copy_modes()
        self._resize()
        self.in_front = False
        self._output_open = self._input_open = True
        self._typed = b""

    def begin(self) -> None:
        """The other side has `inner` now."""
        os.close(self.inner)
        os.set_blocking(self._outer, False)
        self._look()

    def register(self, poll: select.poll) -> None:
        """What `carry` can go on with."""
        events = (select.POLLIN if self._output_open else 0) | (select.POLLOUT if self._typed else 0)
        if events:
            poll.register(self._outer, events)
        if self.in_front and self._input_open and not self._typed:
            poll.register(0, select.POLLIN)

    def carry(self) -> None:
        """Move what can be moved without waiting."""
        if not self.in_front:
            self._look()
        self._show()
        if self.in_front and self._input_open and not self._typed and select.select([0], [], [], 0)[0]:
            with contextlib.suppress(OSError):  # hung up
                self._typed = os.read(0, _CHUNK)
            self._input_open = bool(self._typed)
        if self._typed:
            try:
                self._typed = self._typed[os.write(self._outer, self._typed) :]
            except BlockingIOError:
                pass
            except OSError:  # nobody reads any more
                self._typed, self._input_open = b"", False

    def on_signals(self, numbers: bytes) -> None:
        """Follow the size; look who is in front after a stop."""
        if signal.SIGWINCH in numbers:
            self._resize()
        if signal.SIGCONT in numbers:
            self.in_front = False  # the shell has set its terminal as it needs it
            self._look()

    def close(self) -> None:
        """Show what is still to be shown, and give the terminal back as it was."""
        os.set_blocking(self._outer, False)
        while self._show():
            pass
        if self.in_front and self._controlled():
            with contextlib.suppress(termios.error):  # hung up
                termios.tcsetattr(0, termios.TCSADRAIN, self._before)

    def _look(self) -> None:
        """Let every key through if we are in front; the inner terminal interprets them."""
        self.in_front = self._controlled()
        if self.in_front:
            with contextlib.suppress(termios.error):  # hung up
                self._before = termios.tcgetattr(0)
                if not self._alike:
                    self._copy_modes()
                tty.setraw(0, termios.TCSADRAIN)

    def _copy_modes(self) -> None:
        """Begin as the caller's terminal is, once: in the background it is set for another program."""
        self._alike = True
        termios.tcsetattr(self._outer, termios.TCSANOW, termios.tcgetattr(0))

    def _controlled(self) -> bool:
        try:
            return os.tcgetpgrp(0) == os.getpgrp()
        except OSError:
            return False

    def _show(self) -> bool:
        """Some output, if there is any."""
        if not self._output_open:
            return False
        try:
            data = os.read(self._outer, _CHUNK)
        except BlockingIOError:
            return False
        except OSError:  # EIO: the last process has closed the inner terminal
            data = b""
        if not self.in_front:
            data = data.replace(b"\r\n", b"\n")  # the caller's terminal is not raw: it adds the other half itself
        self._output_open = bool(data)
        with contextlib.suppress(OSError):  # hung up: what is shown, nobody sees
            while data:
                data = data[os.write(1, data) :]
        return self._output_open

    def _resize(self) -> None:
        """Give the inner terminal our size."""
        with contextlib.suppress(OSError):
            size = fcntl.ioctl(0, termios.TIOCGWINSZ, bytes(8))
            fcntl.ioctl(self._outer, termios.TIOCSWINSZ, size)
