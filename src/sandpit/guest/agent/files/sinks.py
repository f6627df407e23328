"""Where the body of an upload flows: raw bytes, gzip, multipart forms. Blocking: call it in a thread."""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Mapping
from typing import Protocol

from sandpit.guest.agent.files.error import FileError
from sandpit.guest.agent.files.form import FormReader
from sandpit.guest.agent.files.target import Target

_GZIP = 16 + zlib.MAX_WBITS
_INFLATE_BYTES = 1 << 20
"""How much is unpacked at once, however well it is packed."""

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


class MultipartSink(FormReader):
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
        super().__init__(boundary, error_status=400)

    def finish(self) -> list[Item]:
        if not self.complete:
            raise FileError(400, "the multipart body ended early; nothing may be missing, so the upload failed")
        return self._items

    def abort(self) -> None:
        if self._target is not None:
            self._target.abort()

    def begin_part(self, options: Mapping[bytes, bytes]) -> None:
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

    def part_data(self, data: memoryview) -> None:
        if self._target is not None:
            self._target.write(data)

    def end_part(self) -> None:
        if self._target is not None:
            target, self._target = self._target, None
            self._items.append(target.finish())


def _same_path(path: str) -> FileError:
    return FileError(400, f"you cannot upload multiple files to the same path '{path}' in one request")
