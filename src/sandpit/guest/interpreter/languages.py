"""How each language takes a change of its environment.

Values travel as data: every one is a complete literal of the language, made of ASCII only, so no value can end it. The code
runs in a silent request of its own, which neither counts nor shows in tracebacks.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from sandpit.guest.interpreter.environment import Change

ALIASES = {"js": "javascript", "ts": "typescript"}
_SHELL_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True, slots=True)
class Traits:
    """What is special about a language's kernel."""

    takes_environment: bool = True
    """Code sees the variables that the process was started with where clients look for them."""
    counts_silent: bool = False
    needs_directory: bool = False
    """A context in a directory that is not there is refused (code-interpreter 2.12)."""
    newline_apart: bool = False
    """Clients expect `println`'s newline as an event of its own (code-interpreter 2.13)."""


_TRAITS = {
    "javascript": Traits(needs_directory=True),
    "typescript": Traits(needs_directory=True),
    "r": Traits(needs_directory=True),
    "java": Traits(takes_environment=False, counts_silent=True, newline_apart=True),
}


def traits(language: str) -> Traits:
    """Those of a kernelspec's language, in lower case."""
    return _TRAITS.get(language, Traits())


def normalise(language: str) -> str:
    """Lower case, trimmed, two aliases (code-interpreter 2.4)."""
    name = language.strip().lower()
    return ALIASES.get(name, name)


def change_code(language: str, change: Change) -> str:
    """Code for a silent request; empty if nothing is to do or the language has no way."""
    make = _MAKERS.get(language)
    return make(change) if make and change else ""


_PYTHON_RESEED = """
import os, random, sys
random.seed()
if "numpy.random" in sys.modules:
    sys.modules["numpy.random"].seed()
if "ssl" in sys.modules:
    sys.modules["ssl"].RAND_add(os.urandom(32), 32.0)
if "torch" in sys.modules:
    sys.modules["torch"].seed()
"""


def _python(change: Change) -> str:
    # Expressions only: names of the user's are neither used nor made.
    data = json.dumps([dict(change.assign), list(change.remove)])
    apply = "import os\nos.environ.update(data[0])\nfor name in data[1]: os.environ.pop(name, None)\n"
    source = f"import json\ndata = json.loads({data!r})\n{apply}"
    return f"exec({source + (_PYTHON_RESEED if change.reseed else '')!r}, {{}})"


def _javascript(change: Change) -> str:
    assign, remove = json.dumps(json.dumps(dict(change.assign))), json.dumps(list(change.remove))
    return f"Object.assign(process.env, JSON.parse({assign})); {remove}.forEach((name) => delete process.env[name]);"


def _bash(change: Change) -> str:
    def literal(value: str) -> str:
        return "$'" + "".join(f"\\x{byte:02x}" for byte in value.encode("utf-8", "surrogateescape")) + "'"

    lines = [f"export {name}={literal(value)}" for name, value in change.assign.items() if _SHELL_NAME.fullmatch(name)]
    lines += [f"unset {name}" for name in change.remove if _SHELL_NAME.fullmatch(name)]
    if change.reseed:
        lines.append("RANDOM=$(od -An -N2 -tu2 /dev/urandom)")
    return "; ".join(lines)


def _r(change: Change) -> str:
    def literal(value: str) -> str:
        return '"' + "".join(f"\\U{ord(char):08x}" for char in value) + '"'

    calls = [
        f"do.call(Sys.setenv, structure(list({literal(value)}), names = {literal(name)}))"
        for name, value in change.assign.items()
    ]
    calls += [f"Sys.unsetenv({literal(name)})" for name in change.remove]
    if change.reseed:
        calls.append("set.seed(NULL)")
    return f"invisible({{ {'; '.join(calls)} }})"


def _java(change: Change) -> str:
    # A running JVM cannot change its environment: these are system properties, as clients expect (code-interpreter 2.11).
    pairs = ((json.dumps(name), json.dumps(value)) for name, value in change.assign.items())
    sets = [f"System.setProperty({name}, {value});" for name, value in pairs]
    return " ".join(sets + [f"System.clearProperty({json.dumps(name)});" for name in change.remove])


_MAKERS: dict[str, Callable[[Change], str]] = {
    "python": _python,
    "javascript": _javascript,
    "typescript": _javascript,
    "bash": _bash,
    "r": _r,
    "java": _java,
}
