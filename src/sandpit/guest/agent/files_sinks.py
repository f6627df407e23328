"""Where the body of an upload flows: raw bytes, gzip, multipart forms. Blocking: call it in a thread."""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable
from typing import Protocol

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from sandpit.guest.agent.files_error import FileError
from sandpit.guest.agent.files_target import Target

_GZIP = 16 + zlib.MAX_WBITS
_INFLATE_BYTES = 1 << 20
"""How much is unpacked at once, however well it is packed."""
# Of one file: a path of 4096 bytes, percent-encoded, fits.
_MAX_PART_HEADER_BYTES = 16 << 10

Item = dict[str, object]
OpenTarget = Callable[[str], Target]


class Sink(Protocol):
    """Takes a body piece by piece, ends with `finish` or `abort`. All raise FileError."""

    def feed(self, data: bytes) -> None:
        """Take the next piece."""

    def finish(self) -> list[Item]:
        """The body is complete; returns the answer."""

    def abort(self) -> None:
        """The body will not be complete."""


class RawSink:
    """The body is the file."""

    def __init__(self, target: Target) -> None:
        self._target = target

    def feed(self, data: bytes) -> None:
        self._target.write(data)

    def finish(self) -> list[Item]:
        return [self._target.finish()]

    def abort(self) -> None:
        self._target.abort()


class GunzipSink:
    """Unpacks gzip, also of several members, into another sink; memory stays flat whatever it unpacks to."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._inflater = zlib.decompressobj(_GZIP)

    def feed(self, data: bytes) -> None:
        try:
            while data:
                if self._inflater.eof:
                    self._inflater = zlib.decompressobj(_GZIP)
                piece = self._inflater.decompress(data, _INFLATE_BYTES)
                data = self._inflater.unused_data or self._inflater.unconsumed_tail
                self._sink.feed(piece)
            while not self._inflater.eof and (piece := self._inflater.decompress(b"", _INFLATE_BYTES)):
                self._sink.feed(piece)
        except zlib.error as error:
            raise FileError(400, f"the body is not valid gzip: {error}") from None

    def finish(self) -> list[Item]:
        if not self._inflater.eof:
            raise FileError(400, "the gzip body ended early; nothing may be missing, so the upload failed")
        return self._sink.finish()

    def abort(self) -> None:
        self._sink.abort()


class MultipartSink:
    """A form: each part named `file` is a file, the others are skipped."""

    def __init__(
        self, boundary: bytes, path: str | None, resolve: Callable[[str], str], open_target: OpenTarget
    ) -> None:
        """`path` is where the only file goes; None when the parts' file names tell, which `resolve` makes absolute.

        Raises: FileError.
        """
        self._path = path
        self._resolve = resolve
        self._open_target = open_target
        self._target: Target | None = None
        self._paths: set[str] = set()
        self._files: set[tuple[int, int]] = set()
        self._items: list[Item] = []
        self._headers: dict[bytes, bytes] = {}
        self._name = self._value = b""
        self._ended = False
        try:
            self._parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": self._part_begin,
                    "on_header_field": self._header_field,
                    "on_header_value": self._header_value,
                    "on_header_end": self._header_end,
                    "on_headers_finished": self._headers_finished,
                    "on_part_data": self._part_data,
                    "on_part_end": self._part_end,
                    "on_end": self._end,
                },
                max_header_size=_MAX_PART_HEADER_BYTES,
            )
        except FormParserError as error:
            raise FileError(400, f"invalid multipart boundary: {error}") from None

    def feed(self, data: bytes) -> None:
        try:
            self._parser.write(data)
        except FormParserError as error:
            raise FileError(400, f"invalid multipart body: {error}") from None

    def finish(self) -> list[Item]:
        if not self._ended:
            raise FileError(400, "the multipart body ended early; nothing may be missing, so the upload failed")
        return self._items

    def abort(self) -> None:
        if self._target is not None:
            self._target.abort()

    def _part_begin(self) -> None:
        self._headers = {}

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _header_end(self) -> None:
        self._headers[self._name.lower()] = self._value
        self._name = self._value = b""

    def _headers_finished(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition"))
        if options.get(b"name") != b"file":
            return
        name = options.get(b"filename", b"").decode("utf-8", "surrogateescape")
        if not self._path and not name:
            raise FileError(400, "a file has neither a file name nor a 'path' query parameter")
        path = self._path or self._resolve(name)
        if os.path.normpath(path) in self._paths:  # before its content is gone
            raise _same_path(path)
        self._target = self._open_target(path)
        if self._target.identity in self._files:
            raise _same_path(path)
        self._paths.add(os.path.normpath(path))
        self._files.add(self._target.identity)

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        if self._target is not None:
            self._target.write(memoryview(data)[start:end])

    def _part_end(self) -> None:
        if self._target is not None:
            target, self._target = self._target, None
            self._items.append(target.finish())

    def _end(self) -> None:
        self._ended = True


def _same_path(path: str) -> FileError:
    return FileError(400, f"you cannot upload multiple files to the same path '{path}' in one request")
