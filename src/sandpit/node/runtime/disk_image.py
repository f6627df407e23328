"""The writable disk of a crun sandbox: an ext4 image of limited size, `disk.img` in the bundle, mounted at `disk`."""

from __future__ import annotations

import contextlib
from pathlib import Path

from sandpit.lib import mounts
from sandpit.node.host.commands import CommandFailed, run
from sandpit.node.runtime.base import RuntimeFailed

_COPY_SECONDS = 600.0


async def make(image: Path, size_mb: int) -> None:
    """Make a sparse, empty one of `size_mb` MiB. Raises: CommandFailed, OSError."""
    with image.open("wb") as file:
        file.truncate(size_mb << 20)
    options = "nodiscard,lazy_itable_init=1"
    await run("mkfs.ext4", "-q", "-m", "0", "-O", "^has_journal", "-E", options, str(image))


async def mount(image: Path, target: Path) -> None:
    """Mount it through a loop device that goes with the mount. Raises: CommandFailed, OSError.

    Programs of the sandbox give nobody rights here: what the sandbox itself sees is an overlay of it, mounted where only it looks.
    """
    await run("mount", "-o", "loop,nosuid,nodev", str(image), str(target))
    for name in ("upper", "work"):
        if not (target / name).exists():
            (target / name).mkdir()
            (target / name).chmod(0o755)


async def copy(source: Path, target: Path) -> None:
    """Copy it: at once where the host's file system can share blocks, else without its holes. Raises: RuntimeFailed."""
    try:
        await run("cp", "--reflink=auto", "--sparse=always", str(source), str(target), timeout=_COPY_SECONDS)
    except CommandFailed as error:
        raise RuntimeFailed(f"the disk could not be copied: {error.output.strip()}") from error


async def freeze(bundle: Path) -> None:
    """Bring the image up to date, and let nothing be written to it until `unfreeze`. Raises: CommandFailed."""
    await run("fsfreeze", "--freeze", str(bundle / "disk"))


async def unfreeze(bundle: Path) -> None:
    """Let a sandbox's disk be written to. One that is not frozen, or not mounted any more, is left as it is."""
    disk = bundle / "disk"
    if mounts.is_mount(disk):
        with contextlib.suppress(CommandFailed):  # EINVAL: it is not frozen
            await run("fsfreeze", "--unfreeze", str(disk))
