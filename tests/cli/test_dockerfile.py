"""Dockerfiles as steps: what they become, and what is refused with its line."""

from __future__ import annotations

import os
import tarfile
from typing import TYPE_CHECKING

import pytest

from sandpit.cli.context import Context
from sandpit.cli.errors import CliError
from sandpit.cli.templates.config import TemplateConfig, load, save
from sandpit.cli.templates.dockerfile import read

if TYPE_CHECKING:
    from pathlib import Path


def steps(text: str, **arguments: str) -> list[tuple[str, ...]]:
    """Without the first two, which are every Dockerfile's."""
    plan = read(text, "Dockerfile", arguments)
    assert [(step.kind, *step.args) for step in plan.steps[:2]] == [("USER", "root"), ("WORKDIR", "/")]
    return [(step.kind, *step.args) for step in plan.steps[2:]]


END = [("USER", "user"), ("WORKDIR", "/home/user")]


def test_all_instructions() -> None:
    text = """\
ARG VERSION=22.04
FROM ubuntu:${VERSION}
ARG COLOUR=blue
ARG UNSET
ENV A=1 B="two words" C='$A' D=$COLOUR
ENV OLD style of value
COPY --chown=user:staff --chmod=644 a "b c" /target
ADD archive.tar.gz /opt/
WORKDIR ${A}/work
RUN apt-get update && \\
    # a comment
    apt-get install -y x
RUN ["echo", "a b", "$A"]
EXPOSE 80
USER nobody
"""
    assert read(text, "Dockerfile", {"VERSION": "24.04"}).image == "ubuntu:24.04"
    assert steps(text) == [
        ("ENV", "A", "1", "B", "two words", "C", "$A", "D", "blue"),
        ("ENV", "OLD", "style of value"),
        ("COPY", "a", "/target/", "user:staff", "644"),
        ("COPY", "b c", "/target/", "user:staff", "644"),
        ("ADD", "archive.tar.gz", "/opt/", "", ""),
        ("WORKDIR", "${A}/work"),
        ("RUN", "export COLOUR=blue; apt-get update &&     apt-get install -y x"),
        ("RUN", "export COLOUR=blue; echo 'a b' '$A'"),
        ("USER", "nobody"),
    ]
    assert read(text, "Dockerfile", {}).warnings == [
        "Dockerfile:14: EXPOSE means nothing for a template, and is left out"
    ]


@pytest.mark.parametrize(
    ("text", "start"),
    [
        ("FROM x", None),
        ("FROM x\nCMD python app.py", "python app.py"),
        ('FROM x\nCMD ["python", "my app.py"]', "python 'my app.py'"),
        ('FROM x\nENTRYPOINT ["run"]\nCMD ["--all"]', "run --all"),
    ],
)
def test_start_command(text: str, start: str | None) -> None:
    assert read(text, "Dockerfile", {}).start_cmd == start
    assert steps(text) == END


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("FROM a AS one\nRUN x\nFROM b\n", "line 3: a second FROM"),
        ("FROM a\n\nRUN <<EOF\nls\nEOF\n", "line 3: RUN has a here-document"),
        ("FROM a\nCOPY <<EOF /x\nls\nEOF\n", "line 2: COPY has a here-document"),
        ("FROM a\nCOPY --from=b /x /y\n", "line 2: COPY --from"),
        ("RUN x\nFROM a\n", "line 1: RUN comes before FROM"),
        ("FROM a\nADD https://x/y /z\n", "line 2: ADD of an address"),
        ("FROM a\nONBUILD RUN x\n", "line 2: ONBUILD"),
        ("FROM scratch\n", "line 1: FROM scratch"),
        ("FROM a\nCOPY x\n", "line 2"),
        ("FROM a\nENV 'A\n", "line 2"),
        ("# nothing\n", "no FROM"),
        ("", ""),
    ],
)
def test_refused(text: str, why: str) -> None:
    with pytest.raises(CliError) as caught:
        read(text, "Dockerfile", {})
    assert why in str(caught.value)


def names(context: Context, source: str, tmp_path: Path) -> list[str]:
    return [str(path.relative_to(tmp_path)) for path in context.files(source, "Dockerfile, line 1")]


def test_context(tmp_path: Path) -> None:
    for name in (
        "app/main.py",
        "app/.git/config",
        "app/node_modules/x/y.js",
        "app/keep.log",
        "app/other.log",
        "secret.env",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / ".dockerignore").write_text("# left out\n**/node_modules\n**/.git\n*.env\n**/*.log\n!app/keep.log\n")
    (tmp_path / "app/link").symlink_to("../secret.env")
    context = Context(tmp_path)
    assert names(context, "app", tmp_path) == ["app", "app/keep.log", "app/link", "app/main.py"]
    assert names(context, "./app/*.py", tmp_path) == ["app/main.py"]
    assert names(context, ".", tmp_path)[:2] == [".", ".dockerignore"]
    for source, why in (("../x", "outside"), ("secret.env", "is not in"), ("nothing*", "is not in")):
        with pytest.raises(CliError, match=why):
            context.files(source, "Dockerfile, line 1")
    files = context.files("app", "")
    first = context.digest(files)
    os.utime(tmp_path / "app/main.py", (1, 1))
    assert context.digest(files) == first
    (tmp_path / "app/main.py").write_text("changed")
    assert context.digest(files) != first
    with context.archive(files) as archive, tarfile.open(fileobj=archive) as tar:
        members = {member.name: member for member in tar}
    assert members["app/link"].linkname == "../secret.env"
    assert {member.uid for member in members.values()} == {0}


def test_config_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "e2b.toml"
    config = TemplateConfig("id", 'na"me', "e2b.Dockerfile", "run \\ 'x'\n\x7f\ttwice", None, 4, 512)
    save(path, config)
    assert load(path) == config
    path.write_text('id = "old"\nname = "called"\ndockerfile = "D"\nteam_id = "ignored"\n')
    assert load(path) == TemplateConfig("old", "called", "D")
    for bad in ("cpu_count = 'two'", "= broken"):
        path.write_text(bad)
        with pytest.raises(CliError):
            load(path)
