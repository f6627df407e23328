"""Whether a gVisor checkpoint is whole, by its own metadata: on a disk that gets full, some releases write a part of it and report success
(google/gvisor#14229).

`pages_meta.img` describes the memory files one after the other, in the wire format of gVisor's package `state`: objects, then a header for
each range of pages that is in `pages.img`, with its size. So the sizes of all ranges together are the size of `pages.img`. (Read off
release 20240729 and the sources pkg/state/wire/wire.go, pkg/state/encode.go and pkg/sentry/pgalloc/save_restore.go.)
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from sandpit.node.host.commands import run

STATE, METADATA, PAGES = "checkpoint.img", "pages_meta.img", "pages.img"
_MAGIC = b"gVisorSF"
_OBJECTS = 1 << 63
"""Set in a header that counts objects; one without it is a number of bytes."""
_PAGE = 4096
_SHORT_BYTES = 256 << 10
"""Of metadata: this much is read in a tenth of a second."""
_SECONDS = 300.0
_SOURCES = str(Path(__file__).resolve().parents[3])
_MOST_BITS = 70
# Kinds of values (wire.go, "Object types").
_ONE_NUMBER = frozenset(range(5))
_NOTHING = frozenset({5, 12})
_REFERENCE, _STRING, _SLICE, _ARRAY, _MAP, _STRUCT, _SEVERAL, _INTERFACE, _COMPLEX64, _COMPLEX128, _TYPE = (
    6, 7, 8, 9, 10, 11, 13, 14, 15, 16, 17,
)  # fmt: skip
_SIZES = {_REFERENCE: 1, _SLICE: 3, _COMPLEX64: 2, _COMPLEX128: 2}
"""How many numbers such a value begins with."""


class Damaged(Exception):
    """A checkpoint is not whole. The message says what is missing."""


async def check(directory: Path) -> None:
    """Raises: Damaged, CommandFailed, OSError."""
    if (directory / METADATA).stat().st_size <= _SHORT_BYTES:
        await asyncio.to_thread(verify, directory)
        return
    # A guest decides how many ranges its memory has. In a thread, this would take processor time from the event loop.
    program = f"import sys; sys.path.insert(0, {_SOURCES!r}); from {__name__} import main; main()"
    words = await run(sys.executable, "-I", "-c", program, str(directory), timeout=_SECONDS)
    if words:
        raise Damaged(words.strip())


def main() -> None:
    """Verify the checkpoint in a directory, and print what is wrong with it."""
    try:
        verify(Path(sys.argv[1]))
    except Damaged as error:
        sys.stdout.write(str(error))


def verify(directory: Path) -> None:
    """Blocking. Raises: Damaged, OSError."""
    with (directory / STATE).open("rb") as file:
        if file.read(len(_MAGIC)) != _MAGIC:
            raise Damaged(f"{STATE} does not begin as it should")
    expected = pages_bytes((directory / METADATA).read_bytes())
    found = (directory / PAGES).stat().st_size
    if found != expected:
        raise Damaged(f"{PAGES} has {found} bytes instead of {expected}")


def pages_bytes(metadata: bytes) -> int:
    """How large `pages.img` must be. Raises: Damaged when the description itself is not whole."""
    reader, total = _Reader(metadata), 0
    try:
        while not reader.done:
            header = reader.number()
            if header & _OBJECTS:
                for _ in range(header ^ _OBJECTS):
                    reader.object()
            elif header % _PAGE:
                raise Damaged(f"{METADATA} has a range of {header} bytes")
            else:
                total += header
    except (IndexError, RecursionError):
        raise Damaged(f"{METADATA} is cut short") from None
    if not total:
        raise Damaged(f"{METADATA} describes no pages")
    return total


class _Reader:
    """Skips what is between the headers. Raises: IndexError at the end, Damaged for what is of no known kind."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def done(self) -> bool:
        if self._at > len(self._data):
            raise IndexError
        return self._at == len(self._data)

    def number(self) -> int:
        """A variable-length integer, seven bits a byte."""
        value = shift = 0
        while True:
            byte = self._data[self._at]
            self._at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
            shift += 7
            if shift >= _MOST_BITS:
                raise Damaged(f"{METADATA} has a number of too many digits")

    def object(self) -> None:
        """The definitions of types that come before it, its number, and its value."""
        while (kind := self.number()) == _TYPE:
            self._rest(kind)
        self._rest(kind)
        self._value()

    def _value(self) -> int:
        """One value; returns its kind."""
        kind = self.number()
        self._rest(kind)
        return kind

    def _rest(self, kind: int) -> None:
        """What follows the kind of a value."""
        if kind in _ONE_NUMBER:
            self.number()
        elif kind in _NOTHING:
            return
        elif kind == _STRING:
            self._text()
        elif kind in _SIZES:
            for _ in range(_SIZES[kind]):
                self.number()
            if kind in (_REFERENCE, _SLICE):
                self._path()
        else:
            self._composite(kind)

    def _composite(self, kind: int) -> None:
        if kind == _ARRAY:
            self._elements(1)
        elif kind == _MAP:
            self._elements(2)
        elif kind == _STRUCT:
            self.number()
            self._value()
        elif kind == _SEVERAL:
            for _ in range(self.number()):
                self._value()
        elif kind == _INTERFACE:
            self._spec()
            self._value()
        elif kind == _TYPE:
            self._text()
            for _ in range(self.number()):
                self._text()
        else:
            raise Damaged(f"{METADATA} has a value of the unknown kind {kind}")

    def _elements(self, each: int) -> None:
        """Only the first one says what kinds all of them are."""
        count = self.number()
        if count:
            kinds = [self._value() for _ in range(each)]
            for _ in range(count - 1):
                for kind in kinds:
                    self._rest(kind)

    def _text(self) -> None:
        size = self.number()
        self._at += size

    def _path(self) -> None:
        """The way from an object to a part of it: indexes (not negative) and names (their negative lengths)."""
        steps = self.number()
        for _ in range(steps):
            step = self.number()
            if step & 1:
                self._at += (step >> 1) + 1
        if steps:
            self._spec()

    def _spec(self) -> None:
        """A type (wire.go, "TypeSpec types"): a number, or made of others."""
        kind = self.number()
        if kind == 0:
            self.number()
        elif kind in (1, 3):
            self._spec()
        elif kind == 2:
            self.number()
            self._spec()
        elif kind == 4:
            self._spec()
            self._spec()
        elif kind != 5:
            raise Damaged(f"{METADATA} has a type of the unknown kind {kind}")
