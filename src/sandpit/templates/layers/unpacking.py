"""Strangers' layers into the layer store: in a process of its own (`sandpit.templates.layers.unpack`), which dies with this one."""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from sandpit.contract.errors import NodeError
from sandpit.lib import programs
from sandpit.templates.layers.unpack import Limits

if TYPE_CHECKING:
    from collections.abc import Sequence

_MOST_WORDS = 64 << 10
_SOURCES = str(Path(__file__).resolve().parents[3])


class UnpackFailed(NodeError):
    """A layer is refused, or cannot be written."""


async def unpack(archive: Path, target: Path, lowers: Sequence[Path], limits: Limits, *, zstd: bool = False) -> None:
    """Fill the empty directory `target` with a layer, plain or compressed with gzip or (if said so) zstd. Raises: UnpackFailed."""
    program = f"import sys; sys.path.insert(0, {_SOURCES!r}); from sandpit.templates.layers.unpack import main; main()"
    python = [sys.executable, "-I", "-c", program, str(target), json.dumps(asdict(limits)), *map(str, lowers)]
    alone = ["setpriv", "--pdeathsig", "KILL", "unshare", "--net", "--ipc"]
    command = [*alone, *python]
    if zstd:
        command = [*alone, "sh", "-c", 'zstd -dcq --memory=512MB | exec "$@"', "sh", *python]
    with archive.open("rb") as source:
        process = await programs.start(*command, stdin=source, stderr=asyncio.subprocess.PIPE)
    try:
        assert process.stderr is not None
        words = await process.stderr.read(_MOST_WORDS)
        while await process.stderr.read(_MOST_WORDS):  # a layer decides what there is to say
            pass
        await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        raise UnpackFailed(words.decode(errors="replace").strip()[-500:] or f"status {process.returncode}")
