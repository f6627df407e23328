"""User metadata of files: extended attributes `user.e2b.<key>` (current-protocol 7.2)."""

from __future__ import annotations

import errno
import os
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

PREFIX = "user.e2b."
MAX_KEY_BYTES = 246
"""The kernel's 255 bytes for an attribute's name, without the prefix."""
MAX_TOTAL_BYTES = 4096

_HEADER = "x-metadata-"
_PRINTABLE = re.compile(r"[\x20-\x7e]*")
_UNSUPPORTED = frozenset({errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS})


class InvalidMetadataError(ValueError):
    """The `X-Metadata-*` headers of an upload break the protocol's limits."""


class MetadataUnsupportedError(Exception):
    """The file system that holds the path cannot store metadata."""

    def __init__(self) -> None:
        super().__init__(
            "the file system of this path cannot store metadata (it has no user extended attributes); "
            "upload without metadata or to another directory"
        )


def from_headers(headers: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """The metadata that an upload's headers ask for, keys in lower case. Raises: InvalidMetadataError."""
    found: dict[str, str] = {}
    total = 0
    for raw_name, raw_value in headers:
        name = raw_name.decode("latin-1").lower()
        if not name.startswith(_HEADER):
            continue
        key, value = name[len(_HEADER) :], raw_value.decode("latin-1")
        if not key or len(key) > MAX_KEY_BYTES:
            raise InvalidMetadataError(f"metadata key '{key}' must have 1 to {MAX_KEY_BYTES} bytes")
        if not _PRINTABLE.fullmatch(value):
            raise InvalidMetadataError(f"metadata value of '{key}' must be printable ASCII")
        if key in found:
            raise InvalidMetadataError(f"metadata key '{key}' is given twice")
        total += len(key) + len(value)
        found[key] = value
    if total > MAX_TOTAL_BYTES:
        raise InvalidMetadataError(f"metadata has {total} bytes; at most {MAX_TOTAL_BYTES} are allowed")
    return found


def read(path: str | int) -> dict[str, str]:
    """The metadata of a file; empty when there is none or the file system stores none."""
    try:
        names = [name for name in os.listxattr(path) if name.startswith(PREFIX)]
    except OSError:
        return {}
    found = {}
    for name in names:
        try:
            found[name[len(PREFIX) :]] = os.getxattr(path, name).decode("utf-8", "replace")
        except OSError:  # removed between the two calls
            continue
    return found


def replace(descriptor: int, wanted: Mapping[str, str]) -> None:
    """Make `wanted` the whole metadata of an open file. Raises: MetadataUnsupportedError, OSError."""
    try:
        for name in os.listxattr(descriptor):
            if name.startswith(PREFIX) and name[len(PREFIX) :] not in wanted:
                os.removexattr(descriptor, name)
        for key, value in wanted.items():
            os.setxattr(descriptor, PREFIX + key, value.encode())
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
        if wanted:
            raise MetadataUnsupportedError from None
