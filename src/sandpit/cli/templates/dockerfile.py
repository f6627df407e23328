"""A Dockerfile as the steps of a template (current-protocol 10.2; documentation of 2024, the template file)."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from e2b_dockerfile_utils import DockerfileSyntaxError, ShellLex, parse_dockerfile_ast

from sandpit.cli.errors import CliError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from e2b_dockerfile_utils import DockerfileInstruction

_IGNORED = frozenset({"EXPOSE", "VOLUME", "LABEL", "MAINTAINER", "STOPSIGNAL", "HEALTHCHECK"})
_ELSEWHERE = "build that image elsewhere, push it to a registry, and write FROM with its name"
_REFERENCE = re.compile(r"\$(?:([A-Za-z_]\w*)|\{([A-Za-z_]\w*)(?::-([^}]*))?\})")
_USER, _HOME = "user", "/home/user"


@dataclass(frozen=True, slots=True)
class Step:
    """One step; COPY and ADD carry the line that they come from, for errors about their files."""

    kind: str
    args: tuple[str, ...]
    line: int


@dataclass(slots=True)
class Plan:
    """What a Dockerfile says."""

    image: str = ""
    steps: list[Step] = field(default_factory=list)
    start_cmd: str | None = None
    warnings: list[str] = field(default_factory=list)


def read(text: str, file: str, arguments: Mapping[str, str]) -> Plan:
    """Translate. `file` is named in errors; `arguments` are `--build-arg`s. Raises: CliError, with the line."""
    try:
        ast = parse_dockerfile_ast(text)
    except DockerfileSyntaxError as error:
        raise CliError(f"{file}: {error}") from None
    return _Translator(file, arguments, ShellLex(ast.escape_token)).translate(ast.instructions)


class _Translator:
    def __init__(self, file: str, arguments: Mapping[str, str], lex: ShellLex) -> None:
        self._file = file
        self._given = arguments
        self._lex = lex
        self._known: dict[str, str] = {}
        """Build arguments with their values; not part of the template's environment."""
        self._plan = Plan()
        self._entrypoint: str | None = None
        self._cmd: str | None = None
        self._line = 0

    def translate(self, instructions: list[DockerfileInstruction]) -> Plan:
        for instruction in instructions:
            self._line = instruction.start_line
            self._take(instruction)
        if not self._plan.image:
            raise CliError(f"{self._file} has no FROM", "begin it with FROM and the name of an image")
        kinds = {step.kind for step in self._plan.steps[2:]}
        for kind, value in (("USER", _USER), ("WORKDIR", _HOME)):
            if kind not in kinds:
                self._add(kind, value)
        if self._entrypoint or self._cmd:
            self._plan.start_cmd = " ".join(filter(None, (self._entrypoint, self._cmd)))
        return self._plan

    def _take(self, instruction: DockerfileInstruction) -> None:
        name = instruction.name.upper()
        if instruction.heredocs:
            raise self._error(f"{name} has a here-document", "put its text into a file, COPY that, and RUN it")
        if name == "FROM":
            self._take_from(instruction)
        elif name == "ARG":
            self._take_arg(instruction)
        elif not self._plan.image:
            raise self._error(f"{name} comes before FROM", "begin with FROM; only ARG may come before")
        elif name in _IGNORED:
            self._plan.warnings.append(
                f"{self._file}:{self._line}: {name} means nothing for a template, and is left out"
            )
        elif (method := getattr(self, f"_take_{name.lower()}", None)) is not None:
            method(instruction)
        else:
            raise self._error(f"{name} is not known to templates", f"leave it out, or {_ELSEWHERE}")

    def _take_from(self, instruction: DockerfileInstruction) -> None:
        if self._plan.image:
            raise self._error("a second FROM: builds of several stages are not supported", _ELSEWHERE)
        self._plan.image = self._expanded(instruction.args[0])
        if self._plan.image == "scratch":
            raise self._error("FROM scratch has no files that a step could run with", "name an image")
        self._known = {}  # arguments before FROM are for FROM alone
        self._add("USER", "root")
        self._add("WORKDIR", "/")

    def _take_arg(self, instruction: DockerfileInstruction) -> None:
        for word in instruction.args:
            name, equals, value = word.partition("=")
            default = self._expanded(self._plain(value)) if equals else None
            value_now = self._given.get(name, default)
            if value_now is not None:
                self._known[name] = value_now

    def _take_run(self, instruction: DockerfileInstruction) -> None:
        self._flags(instruction, ())
        command = shlex.join(instruction.args) if instruction.json else " ".join(instruction.args)
        exports = "".join(f"export {name}={shlex.quote(value)}; " for name, value in self._known.items())
        self._add("RUN", exports + command)

    def _take_copy(self, instruction: DockerfileInstruction) -> None:
        name = instruction.name.upper()
        flags = self._flags(instruction, ("chown", "chmod", "link"))
        *sources, target = [
            self._expanded(word if instruction.json else self._plain(word)) for word in instruction.args
        ]
        if not sources:
            raise self._error(f"{name} needs a source and a target", "write both")
        for source in sources:
            if re.match(r"[a-z]+://|git@", source):
                raise self._error(f"{name} of an address is not supported", "fetch it with RUN curl")
            into = target if len(sources) == 1 or target.endswith("/") else f"{target}/"
            self._add(name, source, into, flags.get("chown", ""), flags.get("chmod", ""))

    _take_add = _take_copy

    def _take_workdir(self, instruction: DockerfileInstruction) -> None:
        self._add("WORKDIR", self._expanded(self._plain(instruction.args[0])))

    def _take_user(self, instruction: DockerfileInstruction) -> None:
        self._add("USER", self._expanded(self._plain(instruction.args[0])))

    def _take_env(self, instruction: DockerfileInstruction) -> None:
        args = instruction.args
        pairs = [
            part for i in range(0, len(args) - 2, 3) for part in (args[i], self._expanded(self._plain(args[i + 1])))
        ]
        self._add("ENV", *pairs)

    def _take_cmd(self, instruction: DockerfileInstruction) -> None:
        self._cmd = shlex.join(instruction.args) if instruction.json else " ".join(instruction.args)

    def _take_entrypoint(self, instruction: DockerfileInstruction) -> None:
        self._entrypoint = shlex.join(instruction.args) if instruction.json else " ".join(instruction.args)

    def _take_shell(self, instruction: DockerfileInstruction) -> None:
        self._plan.warnings.append(
            f"{self._file}:{self._line}: SHELL is left out: steps run with the image's bash, else sh"
        )

    def _flags(self, instruction: DockerfileInstruction, known: tuple[str, ...]) -> dict[str, str]:
        found = {}
        for flag in instruction.flags:
            name, _, value = flag.removeprefix("--").partition("=")
            if name == "from":
                raise self._error("COPY --from another stage or image is not supported", _ELSEWHERE)
            if name in known:
                found[name] = self._expanded(value)
            else:
                self._plan.warnings.append(f"{self._file}:{self._line}: --{name} is left out")
        return found

    def _plain(self, word: str) -> str:
        """Without quotes; variables stay."""
        try:
            return str(self._lex.process_word(word))
        except ValueError as error:
            raise self._error(str(error), "mend the quotes") from None

    def _expanded(self, text: str) -> str:
        """With the values of build arguments; variables of the environment are the server's business."""

        def value(match: re.Match[str]) -> str:
            name = match[1] or match[2]
            if name in self._known:
                return self._known[name] or match[3] or ""
            return match[0] if self._plan.image else match[3] or ""

        return _REFERENCE.sub(value, text)

    def _add(self, kind: str, *args: str) -> None:
        self._plan.steps.append(Step(kind, args, self._line))

    def _error(self, message: str, hint: str) -> CliError:
        return CliError(f"{self._file}, line {self._line}: {message}", hint)
