"""A shared library that corrects `close_range()` where the kernel refuses its usual arguments (sandpit.guest.stage1.remedies).

Its one function is close_range(2) with both numbers at most INT_MAX, which is larger than any descriptor: `close_range(3, ~0U, 0)`, as
GLib calls it before each program that it starts, is refused by gVisor up to 2024. The library is written here byte by byte, so that a
host needs no compiler for it. It is for x86-64 and for glibc of any version; it needs no other library: what it calls, `syscall`, is
looked up among those of the program.

One page, mapped twice: read and execute for all of it, read and write for what the loader changes (_DYNAMIC and the table of addresses).
"""

from __future__ import annotations

import struct

MACHINE = "x86_64"
"""The only machine that it is made for."""

_PAGE = 0x1000
_FUNCTION = bytes.fromhex(
    "f30f1efa"  # endbr64
    "39fe"  # cmp esi, edi         last < first is an error, which the kernel finds
    "720f"  # jb call
    "b8ffffff7f"  # mov eax, INT_MAX
    "39c7"  # cmp edi, eax
    "0f47f8"  # cmova edi, eax
    "39c6"  # cmp esi, eax
    "0f47f0"  # cmova esi, eax
    "89d1"  # call: mov ecx, edx   flags
    "89f2"  # mov edx, esi         last
    "89fe"  # mov esi, edi         first
    "bfb4010000"  # mov edi, SYS_close_range
    "31c0"  # xor eax, eax         no vector registers hold arguments
)
_JUMP = b"\xff\x25"
"""`jmp *address(%rip)`: syscall(3) sets errno and returns to the caller."""

_NAMES = b"\0close_range\0syscall\0"
_PT_LOAD, _PT_DYNAMIC, _PT_GNU_STACK = 1, 2, 0x6474E551
_READ_EXECUTE, _READ_WRITE = 5, 6
_GLOBAL_FUNCTION, _WEAK_FUNCTION = 0x12, 0x22
"""Weak: a program without a C library is loaded all the same."""
_GLOB_DAT = 6
_HASH, _STRTAB, _SYMTAB, _RELA, _RELASZ, _RELAENT, _STRSZ, _SYMENT = 4, 5, 6, 7, 8, 9, 10, 11
_HEADER, _PROGRAM_HEADER, _SYMBOL, _RELOCATION = 64, 56, 24, 24
"""Sizes in bytes (System V ABI, ELF-64)."""


def close_range_library() -> bytes:
    """The file's content."""
    hash_at = _HEADER + 4 * _PROGRAM_HEADER
    symbols_at = hash_at + 24
    names_at = symbols_at + 3 * _SYMBOL
    relocation_at = _aligned(names_at + len(_NAMES))
    function_at = relocation_at + _RELOCATION
    code_size = len(_FUNCTION) + len(_JUMP) + 4
    dynamic_at = _aligned(function_at + code_size)
    dynamic = _dynamic(hash_at, symbols_at, names_at, relocation_at)
    table_at = dynamic_at + len(dynamic)
    size = table_at + 8
    table = _PAGE + table_at  # as it is mapped for writing
    parts = (
        _header(),
        _program_header(_PT_LOAD, _READ_EXECUTE, 0, 0, size, _PAGE),
        _program_header(_PT_LOAD, _READ_WRITE, dynamic_at, _PAGE + dynamic_at, size - dynamic_at, _PAGE),
        _program_header(_PT_DYNAMIC, _READ_WRITE, dynamic_at, _PAGE + dynamic_at, len(dynamic), 8),
        _program_header(_PT_GNU_STACK, _READ_WRITE, 0, 0, 0, 16),
        struct.pack("<6I", 1, 3, 1, 0, 2, 0),  # one bucket with both names
        bytes(_SYMBOL),
        struct.pack("<IBBHQQ", _NAMES.index(b"close_range"), _GLOBAL_FUNCTION, 0, 1, function_at, code_size),
        struct.pack("<IBBHQQ", _NAMES.index(b"syscall"), _WEAK_FUNCTION, 0, 0, 0, 0),
        _NAMES.ljust(relocation_at - names_at, b"\0"),
        struct.pack("<QQq", table, 2 << 32 | _GLOB_DAT, 0),
        (_FUNCTION + _JUMP + struct.pack("<i", table - (function_at + code_size))).ljust(
            dynamic_at - function_at, b"\0"
        ),
        dynamic,
        bytes(8),
    )
    return b"".join(parts)


def _header() -> bytes:
    identity = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    shared_object, x86_64, version = 3, 62, 1
    rest = struct.pack(
        "<HHIQQQIHHHHHH", shared_object, x86_64, version, 0, _HEADER, 0, 0, _HEADER, _PROGRAM_HEADER, 4, 64, 0, 0
    )
    return identity + rest


def _program_header(kind: int, access: int, offset: int, address: int, size: int, alignment: int) -> bytes:
    return struct.pack("<IIQQQQQQ", kind, access, offset, address, address, size, size, alignment)


def _dynamic(hash_at: int, symbols_at: int, names_at: int, relocation_at: int) -> bytes:
    entries = (
        (_HASH, hash_at),
        (_STRTAB, names_at),
        (_SYMTAB, symbols_at),
        (_STRSZ, len(_NAMES)),
        (_SYMENT, _SYMBOL),
        (_RELA, relocation_at),
        (_RELASZ, _RELOCATION),
        (_RELAENT, _RELOCATION),
        (0, 0),
    )
    return b"".join(struct.pack("<QQ", *entry) for entry in entries)


def _aligned(offset: int) -> int:
    return offset + -offset % 8
