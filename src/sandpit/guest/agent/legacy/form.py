"""The form of an upload: one part `file`, and perhaps one `path` before or behind it (legacy-protocol 4)."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from sandpit.guest.agent import tree
from sandpit.guest.agent.files_error import FileError, from_os
from sandpit.guest.agent.files_target import Target

if TYPE_CHECKING:
    from collections.abc import Callable

    from python_multipart.multipart import MultipartCallbacks
    from starlette.datastructures import Headers

    from sandpit.guest.agent.accounts import Account

_MODE = 0o666
_MAX_PATH_BYTES = 16 << 10


class FormSink:
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
        self._name = self._value = b""
        self._disposition = b""
        kind, options = parse_options_header(headers.get("content-type"))
        if kind != b"multipart/form-data" or not options.get(b"boundary"):
            raise FileError(500, "request Content-Type isn't multipart/form-data")
        callbacks: MultipartCallbacks = {
            "on_part_begin": self._part_begin,
            "on_header_field": self._header_field,
            "on_header_value": self._header_value,
            "on_header_end": self._header_end,
            "on_headers_finished": self._headers_finished,
            "on_part_data": self._part_data,
            "on_part_end": self._part_end,
        }
        try:
            self._parser = MultipartParser(options[b"boundary"], callbacks, max_header_size=_MAX_PATH_BYTES)
        except FormParserError as error:
            raise FileError(500, f"invalid multipart boundary: {error}") from None

    def feed(self, data: bytes) -> None:
        """Take the next piece."""
        try:
            self._parser.write(data)
        except FormParserError as error:
            raise FileError(500, f"invalid multipart body: {error}") from None

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

    def _part_begin(self) -> None:
        self._part, self._disposition = "", b""

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _header_end(self) -> None:
        if self._name.lower() == b"content-disposition":
            self._disposition = self._value
        self._name = self._value = b""

    def _headers_finished(self) -> None:
        _, options = parse_options_header(self._disposition)
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

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        if self._part == "file" and self._target is not None:
            self._target.write(memoryview(data)[start:end])
        elif self._part == "path" and len(self._path) + end - start <= _MAX_PATH_BYTES:
            self._path += data[start:end]

    def _part_end(self) -> None:
        if self._part == "file" and self._target is not None:
            target, self._target = self._target, None
            target.finish()
