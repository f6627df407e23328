"""What the steps of a template build mean (current-protocol 10.2), without running them."""

from __future__ import annotations

import json
import posixpath
import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from sandpit.contract.builder import BuildFailed
from sandpit.contract.errors import NodeError
from sandpit.templates.layers.store import layer_key

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sandpit.contract.builder import BuildStep

_VERSION = "2"
"""Part of every key: raise it when steps come to mean something else."""
_VARIABLE = re.compile(
    r"\$(?:(?P<plain>[A-Za-z_][A-Za-z0-9_]*)|\{(?P<braced>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>[^}]*))?\})"
)
_PLAIN = re.compile(r"\$(?P<plain>[A-Za-z_][A-Za-z0-9_]*)")
MAX_VALUE_BYTES = (128 << 10) - 1
"""Of a text whose variables are replaced: no program can be given a longer one (execve(2))."""
MAX_ENVIRONMENT_BYTES = 256 << 10
"""Of all variables that steps set, names and values together."""
_DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_ARGUMENTS = {"COPY": (2, 4), "ADD": (2, 4), "RUN": (1, 2), "ENV": (2, 1000), "WORKDIR": (1, 1), "USER": (1, 1)}


class TooLong(NodeError):
    """Variables of a step are longer than they may be when they are replaced."""


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
    """The context that a step leaves. Raises: TooLong."""
    if step.kind == "ENV":
        return replace(context, env=_with_variables(step, context.env))
    if step.kind == "WORKDIR":
        return replace(context, workdir=directory(step.args[0], context))
    if step.kind == "USER":
        return replace(context, user=expand(step.args[0], context.env).partition(":")[0])
    return context


def _with_variables(step: BuildStep, env: Mapping[str, str]) -> Mapping[str, str]:
    """Looked at after each variable: a step may have five hundred, each of which repeats the longest value. Raises: TooLong."""
    changed = dict(env)
    size = sum(map(_bytes, (*changed, *changed.values())))
    for name, value in zip(step.args[::2], step.args[1::2], strict=True):
        expanded = expand(value, env)
        size += _bytes(expanded) - _bytes(changed[name]) if name in changed else _bytes(name) + _bytes(expanded)
        if size > MAX_ENVIRONMENT_BYTES:
            raise TooLong(f"the variables that steps set have more than {MAX_ENVIRONMENT_BYTES >> 10} KiB together")
        changed[name] = expanded
    return changed


def _bytes(text: str) -> int:
    return len(text.encode(errors="surrogatepass"))


def directory(path: str, context: Context) -> str:
    """An absolute path, relative ones from the working directory on."""
    return posixpath.normpath(posixpath.join(context.workdir, expand(path, context.env)))


def expand(text: str, env: Mapping[str, str]) -> str:
    """Variables replaced by their values, unknown ones by nothing; everything else is literal. Raises: TooLong."""
    if _bytes(text) > MAX_VALUE_BYTES:
        raise TooLong(f"a text with variables has more than {MAX_VALUE_BYTES} bytes")
    size = 0

    def value(match: re.Match[str]) -> str:
        nonlocal size
        names = match.groupdict()
        name = names["plain"] or names["braced"]
        found = env.get(name) or (_DEFAULT_PATH if name == "PATH" else "") or names.get("default") or ""
        size += _bytes(found)
        if size > MAX_VALUE_BYTES:
            raise TooLong(f"a text has more than {MAX_VALUE_BYTES} bytes when its variables are replaced")
        return found

    # Behind the last brace none is closed any more: a search for one from each "${" would take quadratic time.
    braces = text.rfind("}") + 1
    expanded = _VARIABLE.sub(value, text[:braces]) + _PLAIN.sub(value, text[braces:])
    if _bytes(expanded) > MAX_VALUE_BYTES:
        raise TooLong(f"a text has more than {MAX_VALUE_BYTES} bytes when its variables are replaced")
    return expanded


def base_key(tenant: str, layers: tuple[str, ...], context: Context) -> str:
    """The key that a team's first step is built on. Layers of steps are never shared between teams: what a step makes may
    depend on more than its key says (limits, the time of day), and one team's luck must not become another's template."""
    return layer_key(None, f"steps {_VERSION} of {tenant}", *layers, _text(context))


def step_key(parent: str, step: BuildStep, context: Context, archive: str | None) -> str:
    """The key of a step's layer; `archive` is the digest of what the team uploaded, whatever hash the client gave it."""
    return layer_key(parent, step.kind, json.dumps(step.args), archive or "", _text(context))


def _text(context: Context) -> str:
    return json.dumps([sorted(context.env.items()), context.user, context.workdir])
