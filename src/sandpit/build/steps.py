"""What the steps of a template build mean (current-protocol 10.2), without running them."""

from __future__ import annotations

import json
import posixpath
import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from sandpit.build.layers import layer_key
from sandpit.node.contract import BuildFailed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sandpit.node.contract import BuildStep

_VERSION = "2"
"""Part of every key: raise it when steps come to mean something else."""
_VARIABLE = re.compile(
    r"\$(?:(?P<plain>[A-Za-z_][A-Za-z0-9_]*)|\{(?P<braced>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>[^}]*))?\})"
)
_DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_ARGUMENTS = {"COPY": (2, 4), "ADD": (2, 4), "RUN": (1, 2), "ENV": (2, 1000), "WORKDIR": (1, 1), "USER": (1, 1)}


@dataclass(frozen=True, slots=True)
class Context:
    """What later steps and the template's sandboxes take over from earlier steps."""

    env: Mapping[str, str] = field(default_factory=dict)
    user: str = "user"
    workdir: str = "/home/user"


def check(step: BuildStep, number: int) -> None:
    """Raises: BuildFailed when it is no step."""
    if step.kind not in _ARGUMENTS:
        raise BuildFailed(f"step {number} is of the unknown kind '{step.kind[:40]}'", str(number))
    least, most = _ARGUMENTS[step.kind]
    if not least <= len(step.args) <= most or (step.kind == "ENV" and len(step.args) % 2):
        raise BuildFailed(
            f"step {number}, {step.kind}, has the wrong number of arguments: {len(step.args)}", str(number)
        )
    if step.kind in ("COPY", "ADD") and not step.files_hash:
        raise BuildFailed(f"step {number}, {step.kind}, says nothing about its files", str(number))
    if any("\0" in argument for argument in step.args):
        raise BuildFailed(f"step {number}, {step.kind}, has a NUL character", str(number))


def shown(step: BuildStep) -> str:
    """A step as its build's log names it."""
    return " ".join([step.kind, *(argument for argument in step.args if argument)])


def after(step: BuildStep, context: Context) -> Context:
    """The context that a step leaves."""
    if step.kind == "ENV":
        pairs = zip(step.args[::2], step.args[1::2], strict=True)
        return replace(context, env={**context.env, **{name: expand(value, context.env) for name, value in pairs}})
    if step.kind == "WORKDIR":
        return replace(context, workdir=directory(step.args[0], context))
    if step.kind == "USER":
        return replace(context, user=expand(step.args[0], context.env).partition(":")[0])
    return context


def directory(path: str, context: Context) -> str:
    """An absolute path, relative ones from the working directory on."""
    return posixpath.normpath(posixpath.join(context.workdir, expand(path, context.env)))


def expand(text: str, env: Mapping[str, str]) -> str:
    """Variables replaced by their values, unknown ones by nothing; everything else is literal."""

    def value(match: re.Match[str]) -> str:
        name = match["plain"] or match["braced"]
        known = env.get(name) or (_DEFAULT_PATH if name == "PATH" else "")
        return known or match["default"] or ""

    return _VARIABLE.sub(value, text)


def base_key(tenant: str, layers: tuple[str, ...], context: Context) -> str:
    """The key that a team's first step is built on. Layers of steps are never shared between teams: what a step makes may
    depend on more than its key says (limits, the time of day), and one team's luck must not become another's template."""
    return layer_key(None, f"steps {_VERSION} of {tenant}", *layers, _text(context))


def step_key(parent: str, step: BuildStep, context: Context, archive: str | None) -> str:
    """The key of a step's layer; `archive` is the digest of what the team uploaded, whatever hash the client gave it."""
    return layer_key(parent, step.kind, json.dumps(step.args), archive or "", _text(context))


def _text(context: Context) -> str:
    return json.dumps([sorted(context.env.items()), context.user, context.workdir])
