"""A command in the process of the tests: the same code, without the half second that a new Python takes on a busy machine."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from typing import TYPE_CHECKING
from unittest import mock

from sandpit.cli.main import main

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def run(
    arguments: Sequence[str], environment: Mapping[str, str], stdin: bytes | None = None
) -> subprocess.CompletedProcess[bytes]:
    """As subprocess.run of `sandpit`, standard input being /dev/null or a file."""
    with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        given.write(stdin or b"")
        given.seek(0)
        null = os.open(os.devnull, os.O_RDONLY)
        kept = [os.dup(number) for number in range(3)]
        try:
            sources = (null if stdin is None else given.fileno(), out.fileno(), err.fileno())
            for number, source in enumerate(sources):
                os.dup2(source, number)
            with (
                mock.patch.dict(os.environ, environment, clear=True),
                mock.patch.object(sys, "argv", ["sandpit", *arguments]),
                mock.patch.object(sys, "stdin", open(0, closefd=False)),
                mock.patch.object(sys, "stdout", open(1, "w", closefd=False)),
                mock.patch.object(sys, "stderr", open(2, "w", closefd=False)),
            ):
                status = _status()
                sys.stdout.flush()
                sys.stderr.flush()
        finally:
            for number, descriptor in enumerate(kept):
                os.dup2(descriptor, number)
                os.close(descriptor)
            os.close(null)
        out.seek(0)
        err.seek(0)
        return subprocess.CompletedProcess(list(arguments), status, out.read(), err.read())


def _status() -> int:
    try:
        main()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0
