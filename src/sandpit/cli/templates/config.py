"""`e2b.toml` or `sandpit.toml`: which template a directory is, and how it is built."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, fields
from pathlib import Path

from sandpit.cli.errors import CliError

NAMES = ("sandpit.toml", "e2b.toml")
DOCKERFILES = ("sandpit.Dockerfile", "e2b.Dockerfile", "Dockerfile")
_OLD = {"id": "template_id", "name": "template_name"}
_HEADER = """\
# The template that `sandpit template build` makes of this directory.
# Start a sandbox of it:  Sandbox.create("{name}")

"""


@dataclass(slots=True)
class TemplateConfig:
    """What the file says; None where it says nothing."""

    template_id: str | None = None
    template_name: str | None = None
    dockerfile: str | None = None
    start_cmd: str | None = None
    ready_cmd: str | None = None
    cpu_count: int | None = None
    memory_mb: int | None = None


def find(root: Path, given: Path | None) -> Path | None:
    """The file to use, None if there is none. Raises: CliError when the one that was named is not there."""
    if given is not None:
        path = root / given
        if not path.is_file():
            raise CliError(f"{path} is not there", "leave --config out, or correct it")
        return path
    return next((root / name for name in NAMES if (root / name).is_file()), None)


def load(path: Path) -> TemplateConfig:
    """Raises: CliError."""
    try:
        found = tomllib.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise CliError(f"{path} cannot be read: {error}", "correct it, or remove it and build with --name") from None
    config = TemplateConfig()
    for key, value in found.items():
        name = _OLD.get(key, key)
        kind = int if name in ("cpu_count", "memory_mb") else str
        if name in {field.name for field in fields(TemplateConfig)}:
            if not isinstance(value, kind):
                raise CliError(f"{path}: {key} must be {'a whole number' if kind is int else 'a string'}")
            setattr(config, name, value)
    return config


def save(path: Path, config: TemplateConfig) -> None:
    """Write it back, whole or not at all. Raises: OSError."""
    lines = [_HEADER.format(name=config.template_name or config.template_id)]
    for field in fields(config):
        value = getattr(config, field.name)
        if value is not None:
            lines.append(f"{field.name} = {value if isinstance(value, int) else _quoted(value)}\n")
    fresh = path.with_name(f".{path.name}.new")
    fresh.write_text("".join(lines))
    fresh.rename(path)


def _quoted(text: str) -> str:
    """A TOML basic string; JSON's escapes are TOML's."""
    import json

    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def dockerfile(root: Path, given: Path | None, config: TemplateConfig) -> Path:
    """The Dockerfile: as given, as configured, else by its usual names. Raises: CliError."""
    wanted = [str(given)] if given is not None else [config.dockerfile] if config.dockerfile else list(DOCKERFILES)
    for name in wanted:
        if (root / name).is_file():
            return root / name
    raise CliError(f"there is no {' or '.join(wanted)} in {root}", "make one with `sandpit template init`")
