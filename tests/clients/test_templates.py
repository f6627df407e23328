"""Templates by the official clients' builder (current-protocol 10, C129 to C136)."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import e2b
import pytest
from tests.clients.flavours import got

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.clients.flavours import Create, Flavour

pytestmark = pytest.mark.timeout(240)


def name(what: str) -> str:
    """A template's name that no other test has."""
    return f"{what}-{secrets.token_hex(4)}"


@dataclass
class Workbench:
    """One flavour's builder, and what its builds have logged."""

    Template: Any
    files: Path
    lines: list[str] = field(default_factory=list)

    def base(self) -> Any:
        return self.Template(file_context_path=self.files).from_template("base")

    async def build(self, template: Any, name: str, **options: Any) -> Any:
        self.lines.clear()
        options = {"cpu_count": 1, "memory_mb": 512, **options}
        return await got(
            self.Template.build(template, name, on_build_logs=lambda entry: self.lines.append(entry.message), **options)
        )

    @property
    def text(self) -> str:
        return "\n".join(self.lines)


@pytest.fixture
def bench(flavour: Flavour, tmp_path: Path) -> Iterator[Workbench]:
    bench = Workbench(e2b.Template if flavour.blocking else e2b.AsyncTemplate, tmp_path)
    yield bench
    print(bench.text)


async def test_build_from_a_template(bench: Workbench, create: Create) -> None:
    folder = bench.files / "folder"
    folder.mkdir()
    (folder / "test.txt").write_text(f"This is a test file, {bench.Template.__name__}.\n")
    (folder / "link").symlink_to("test.txt")
    (folder / "broken").symlink_to("nowhere")
    template = bench.base().copy("folder", "folder").run_cmd("cat folder/test.txt").set_envs({"COLOUR": "blue"})
    template = template.run_cmd(["echo $COLOUR", "whoami"], user="root").set_workdir("/app").set_user("user")
    template = template.set_start_cmd("echo 'Hello, world!'; exec python3 -m http.server 8000", e2b.wait_for_port(8000))
    build = await bench.build(template, name("web"))
    assert "[builder 2/6] [stdout]: This is a test file," in bench.text
    assert "[stdout]: root" in bench.text
    assert "Running start command" in bench.text
    assert "[start] [stdout]: Hello, world!" in bench.text
    assert "Template is ready" in bench.text
    sandbox = await create(build.template_id)
    shown = await got(
        sandbox.commands.run(
            "pwd; whoami; echo $COLOUR; curl -s localhost:8000 | grep -c '<html'; readlink ~/folder/broken ~/folder/link"
        )
    )
    assert shown.stdout.split() == ["/app", "user", "blue", "1", "nowhere", "test.txt"]


async def failing(bench: Workbench, template: Any, what: str) -> str:
    """What a build that fails says."""
    with pytest.raises(e2b.BuildException) as caught:
        await bench.build(template, what)
    return str(caught.value)


async def test_users_of_steps(bench: Workbench) -> None:
    words = await failing(bench, bench.base().run_cmd("whoami", user="root123"), name("nobody"))
    assert "failed to run command 'whoami': command failed: unauthenticated: invalid username: 'root123'" in words
    called = name("users")
    template = bench.base().run_cmd(f": {called}")  # a step of its own: cached ones say nothing
    template = template.run_cmd("whoami", user="root").run_cmd("whoami").make_symlink(".bashrc", ".bashrc.local")
    template = template.make_symlink("/etc/hosts", ".bashrc.local", force=True).run_cmd("readlink .bashrc.local")
    await bench.build(template, called)
    said = [line.partition("[stdout]: ")[2] for line in bench.lines if "[stdout]: " in line]
    assert said == ["root", "user", "/etc/hosts"]


async def test_a_failed_build_leaves_the_old_one_in_place(bench: Workbench, create: Create) -> None:
    called = name("steady")
    await bench.build(bench.base().run_cmd("echo first > ~/which"), called)
    words = await failing(
        bench, bench.base().run_cmd("echo first > ~/which").run_cmd("echo the reason >&2; exit 7"), called
    )
    assert "exit status 7" in words
    assert "the reason" in words
    assert "CACHED [builder 1/2] RUN echo first > ~/which" in bench.text
    sandbox = await create(called)
    assert await got(sandbox.files.read("which")) == "first\n"
    words = await failing(
        bench, bench.base().set_start_cmd("echo no port >&2; exit 3", e2b.wait_for_timeout(120_000)), called
    )
    assert "exit status 3" in words
    assert "[start] [stderr]: no port" in bench.text


async def test_exists_and_tags(bench: Workbench, create: Create) -> None:
    kind, called = bench.Template, name("tagged")
    assert await got(kind.exists("base")) is True
    assert await got(kind.exists(called)) is False
    build = await bench.build(bench.base().set_envs({"BUILD": "one"}), f"{called}:v1", tags=["latest"])
    assert await got(kind.exists(called)) is True
    await bench.build(bench.base().set_envs({"BUILD": "two"}), called)
    given = await got(kind.assign_tags(f"{called}:v1", tags=["stable", "v1.0"]))
    assert (given.build_id, set(given.tags)) == (build.build_id, {"stable", "v1.0"})
    tags = {tag.tag: tag.build_id for tag in await got(kind.get_tags(called))}
    assert set(tags) == {"v1", "latest", "stable", "v1.0", "default"}
    for tag, value in ((":stable", "one"), (":default", "two"), ("", "two")):
        sandbox = await create(f"{called}{tag}")
        assert (await got(sandbox.commands.run("echo $BUILD"))).stdout == f"{value}\n"
    await got(kind.remove_tags(called, tags=["v1", "stable"]))
    with pytest.raises(e2b.SandboxException, match="404"):
        await create(f"{called}:stable")
    for wrong in (":tag", "name:"):
        with pytest.raises(e2b.TemplateException):
            await got(kind.assign_tags(wrong, tags=["x"]))


async def test_a_build_in_the_background(bench: Workbench) -> None:
    kind = bench.Template
    build = await got(
        kind.build_in_background(bench.base().run_cmd("sleep 2"), name("later"), cpu_count=1, memory_mb=512)
    )
    status = await got(kind.get_build_status(build))
    assert status.status.value == "building"
    while status.status.value == "building":
        status = await got(kind.get_build_status(build))
    assert status.status.value == "ready", status.reason
