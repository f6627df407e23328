"""Files and iterables as request bodies of both kinds of client."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

PIECE_BYTES = 1 << 18


def pieces(data: Any) -> Any:
    """For a blocking client: bytes as they are, files and iterables in pieces."""
    if isinstance(data, bytes | bytearray | memoryview):
        return bytes(data)
    return _read(data) if hasattr(data, "read") else data


def async_pieces(data: Any) -> Any:
    """For an async client: the same. Files are read between the loop's turns, 256 KiB at a time."""
    if isinstance(data, bytes | bytearray | memoryview):
        return bytes(data)
    if hasattr(data, "__aiter__"):
        return data
    return _each(_read(data) if hasattr(data, "read") else data)


def _read(file: Any) -> Iterator[bytes]:
    while piece := file.read(PIECE_BYTES):
        yield piece.encode() if isinstance(piece, str) else piece


async def _each(data: Any) -> AsyncIterator[bytes]:
    for piece in data:
        yield piece
