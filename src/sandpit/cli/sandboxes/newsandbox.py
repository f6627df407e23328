"""What to start: the body of a create, and the template that a project's file names."""

from __future__ import annotations

import tomllib
from pathlib import Path

from sandpit.cli.client import Json
from sandpit.cli.errors import CliError
from sandpit.cli.sandboxes.choose import MISUSE
from sandpit.cli.sandboxes.sandbox import metadata_pairs, pairs

PROJECT_FILES = ("sandpit.toml", "e2b.toml")
DEFAULT_SECONDS = 300


def body(
    template: str,
    timeout: int | None,
    metadata: list[str],
    on_timeout: str | None,
    env: list[str],
    *,
    auto_resume: bool,
    internet: bool,
) -> Json:
    """Raises: CliError: options that contradict each other."""
    if on_timeout not in (None, "kill", "pause"):
        raise CliError(f"--on-timeout must be kill or pause, got {on_timeout!r}", status=MISUSE)
    if auto_resume and on_timeout != "pause":
        raise CliError("--auto-resume needs --on-timeout pause", status=MISUSE)
    new: Json = {
        "templateID": template,
        "timeout": timeout or DEFAULT_SECONDS,
        "metadata": metadata_pairs(metadata),
        "envVars": pairs(env, "--sandbox-env"),
        "allow_internet_access": internet,
    }
    if on_timeout is not None:
        new["autoPause"] = on_timeout == "pause"
    if auto_resume:
        new["autoResume"] = {"enabled": True}
    return new


def template_of(directory: str, config: str | None) -> str:
    """The template that a project's file names. Raises: CliError."""
    candidates = [Path(directory) / config] if config else [Path(directory) / name for name in PROJECT_FILES]
    for path in candidates:
        try:
            values = tomllib.loads(path.read_text())
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as error:
            raise CliError(f"{path} cannot be read: {error}", "correct it") from None
        found = values.get("template_id") or values.get("id") or values.get("template_name")
        if isinstance(found, str) and found:
            return found
        raise CliError(f"{path} names no template_id", "add it, or name a template")
    names = " or ".join(str(path) for path in candidates)
    raise CliError(f"no template was given, and {names} is not there", "name one, for instance `base`", status=MISUSE)
