"""What callers ask for when they build templates, and what they may ask for (current-protocol 10)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sandpit.contract.builder import BuildStep, Registry
from sandpit.control.errors import ForbiddenError, InvalidRequestError
from sandpit.control.limits import MAX_COMMAND, MAX_STEPS
from sandpit.control.templates.names import DEFAULT_TAG, TemplateRef, parse_ref

if TYPE_CHECKING:
    from sandpit.control.accounts.teams import Identity
    from sandpit.control.settings import Build as Limits

MIN_MEMORY_MB = 128
_TAG = re.compile(r"[a-z0-9_.-]{1,128}")
_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_FILES_HASH = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class NewBuild:
    """A build that is to be: name with or without a tag, more tags, size. None takes the default."""

    name: str
    tags: tuple[str, ...] = ()
    cpu_count: int | None = None
    memory_mb: int | None = None


@dataclass(frozen=True, slots=True)
class BuildStart:
    """What a requested build consists of; `base_template` or `image`."""

    base_template: str | None
    image: str | None
    registry: Registry
    steps: tuple[BuildStep, ...]
    start_cmd: str | None
    ready_cmd: str | None
    force: bool


def check_name(identity: Identity, name: str) -> TemplateRef:
    """Raises: InvalidRequestError, ForbiddenError (another team's namespace)."""
    if not name:
        raise InvalidRequestError("a template needs a name")
    ref = parse_ref(name)
    if ref.namespace not in (None, identity.slug):
        raise ForbiddenError(
            f"'{ref.namespace}' is not your team: leave it out, or name the template '{identity.slug}/{ref.name}'"
        )
    return ref


def check_tags(ref: TemplateRef, tags: tuple[str, ...]) -> list[str]:
    """All tags that a build gets, each once. Raises: InvalidRequestError."""
    found = [tag.strip().lower() for tag in (*([ref.tag] if ref.tag else []), *tags)]
    for tag in found:
        check_tag(tag)
    return list(dict.fromkeys(found)) or [DEFAULT_TAG]


def check_tag(tag: str) -> None:
    """Raises: InvalidRequestError."""
    if not _TAG.fullmatch(tag) or _UUID.fullmatch(tag):
        raise InvalidRequestError(f"'{tag[:200]}' is no tag: expected a-z, 0-9, '-', '_' and '.', and no UUID")


def check_size(cpu_count: int | None, memory_mb: int | None, limits: Limits) -> None:
    """Raises: InvalidRequestError."""
    if cpu_count is not None:
        if cpu_count < 1:
            raise InvalidRequestError("CPU count must be at least 1")
        if cpu_count > limits.max_cpu_count:
            raise InvalidRequestError(f"CPU count must be at most {limits.max_cpu_count}")
        if cpu_count != 1 and cpu_count % 2:
            raise InvalidRequestError("CPU count must be 1 or an even number")
    if memory_mb is not None:
        if memory_mb < MIN_MEMORY_MB:
            raise InvalidRequestError(f"Memory must be at least {MIN_MEMORY_MB} MiB")
        if memory_mb > limits.max_memory_mb:
            raise InvalidRequestError(f"Memory must be at most {limits.max_memory_mb} MiB")
        if memory_mb % 2:
            raise InvalidRequestError("Memory must be divisible by 2")


def check_start(start: BuildStart) -> None:
    """What can be said before anything runs. Raises: InvalidRequestError."""
    if (start.base_template is None) == (start.image is None):
        raise InvalidRequestError("a template starts from fromImage or from fromTemplate: give one of them")
    if len(start.steps) > MAX_STEPS:
        raise InvalidRequestError(f"a template has at most {MAX_STEPS} steps, not {len(start.steps)}")
    for step in start.steps:
        if step.files_hash is not None:
            check_files_hash(step.files_hash)
    texts = [text for text in (start.start_cmd, start.ready_cmd) if text]
    if any(len(text.encode()) > MAX_COMMAND or "\0" in text for text in texts):
        raise InvalidRequestError("the start or ready command is too long, or has a NUL character")


def check_files_hash(text: str) -> str:
    """Raises: InvalidRequestError."""
    if not _FILES_HASH.fullmatch(text):
        raise InvalidRequestError(f"'{text[:100]}' is no hash of files: 64 hex digits")
    return text
