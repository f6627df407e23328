"""Reading a form as it comes (RFC 7578): whoever takes an upload says what becomes of its parts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from sandpit.guest.agent.files.error import FileError

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_PART_HEADER_BYTES = 16 << 10
"""A path of 4096 bytes, percent-encoded, fits."""


class FormReader:
    """Base of what takes a form. Nothing of it is kept but the headers of the part that is being read."""

    def __init__(self, boundary: bytes, *, error_status: int) -> None:
        """`error_status` is what a malformed form is answered. Raises: FileError."""
        self.complete = False
        """Whether the form's end has come."""
        self._error_status = error_status
        self._disposition = self._header = self._value = b""
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
                    "on_part_end": self.end_part,
                    "on_end": self._end,
                },
                max_header_size=MAX_PART_HEADER_BYTES,
            )
        except FormParserError as error:
            raise FileError(error_status, f"invalid multipart boundary: {error}") from None

    def feed(self, data: bytes) -> None:
        """Take the next piece. Raises: FileError."""
        try:
            self._parser.write(data)
        except FormParserError as error:
            raise FileError(self._error_status, f"invalid multipart body: {error}") from None

    def begin_part(self, options: Mapping[bytes, bytes]) -> None:
        """A part begins; `options` are those of its Content-Disposition: `name`, `filename`."""
        raise NotImplementedError

    def part_data(self, data: memoryview) -> None:
        """A piece of the part."""
        raise NotImplementedError

    def end_part(self) -> None:
        """The part is complete."""
        raise NotImplementedError

    def _part_begin(self) -> None:
        self._disposition = b""

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _header_end(self) -> None:
        if self._header.lower() == b"content-disposition":
            self._disposition = self._value
        self._header = self._value = b""

    def _headers_finished(self) -> None:
        self.begin_part(parse_options_header(self._disposition)[1])

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        self.part_data(memoryview(data)[start:end])

    def _end(self) -> None:
        self.complete = True
