"""The form of an upload: one part `file`, and perhaps one `path` before or behind it (legacy-protocol 4)."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from python_multipart.multipart import parse_options_header

from sandpit.guest.agent.files import tree
from sandpit.guest.agent.files.error import FileError, from_os
from sandpit.guest.agent.files.form import FormReader
from sandpit.guest.agent.files.target import Target

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from starlette.datastructures import Headers

    from sandpit.guest.agent.accounts import Account

_MODE = 0o666
_MAX_PATH_BYTES = 16 << 10


class FormSink(FormReader):
    """Writes the file while it comes. Blocking: feed it in a thread. All but `abort` raise FileError."""

    def __init__(self, headers: Headers, account: Account, resolve: Callable[[str], str]) -> None:
        """Raises: FileError 500 when the request is no form."""
        self.is_form_error = False
        """The last error is about what the form lacks."""
        self._account, self._resolve = account, resolve
        self._path = b""
        self._written = ""
        self._target: Target | None = None
        self._part = ""
        kind, options = parse_options_header(headers.get("content-type"))
        if kind != b"multipart/form-data" or not options.get(b"boundary"):
            raise FileError(500, "request Content-Type isn't multipart/form-data")
        super().__init__(options[b"boundary"], error_status=500)

    def finish(self) -> list[dict[str, object]]:
        """The body is complete: move the file to where a `path` behind it says."""
        if not self._written or self._target is not None:
            self.is_form_error = True
            raise FileError(400, "No file or path provided")
        wanted = self._resolve(os.fsdecode(self._path)) if self._path else self._written
        if wanted != self._written:
            try:
                tree.move(self._written, wanted, self._account)
            except OSError as error:
                raise from_os(error, wanted, "writing") from None
        return []

    def abort(self) -> None:
        """The body will not be complete."""
        if self._target is not None:
            self._target.abort()

    def begin_part(self, options: Mapping[bytes, bytes]) -> None:
        self._part = options.get(b"name", b"").decode("utf-8", "replace")
        if self._part != "file" or self._written:
            return
        name = os.path.basename(options.get(b"filename", b"").decode("utf-8", "surrogateescape").rstrip("/"))
        if not name and not self._path:
            self.is_form_error = True
            raise FileError(400, "No file or path provided")
        path = self._resolve(os.fsdecode(self._path) if self._path else name)
        if not os.path.isdir(os.path.dirname(path) or "/"):
            raise FileError(500, f"open {path}: no such file or directory")
        existed = os.path.exists(path)
        self._target = Target.open(path, self._account, {})
        if not existed:
            os.chmod(path, _MODE)
        self._written = path

    def part_data(self, data: memoryview) -> None:
        if self._part == "file" and self._target is not None:
            self._target.write(data)
        elif self._part == "path" and len(self._path) + len(data) <= _MAX_PATH_BYTES:
            self._path += data

    def end_part(self) -> None:
        if self._part == "file" and self._target is not None:
            target, self._target = self._target, None
            target.finish()
