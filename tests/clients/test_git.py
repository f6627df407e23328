"""Git in the sandbox (current-protocol 11.9)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import e2b
import pytest
from tests.clients.flavours import got, until

if TYPE_CHECKING:
    Sandbox = Any

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the clients announce the end of this module

AUTHOR = {"author_name": "A. Uthor", "author_email": "author@example.com"}


async def commit(sandbox: Sandbox, path: str, name: str, text: str = "x\n") -> None:
    await got(sandbox.files.write(f"{path}/{name}", text))
    await got(sandbox.git.add(path))
    await got(sandbox.git.commit(path, f"add {name}", **AUTHOR))


async def new(sandbox: Sandbox, home: str) -> str:
    """A repository on branch main with one commit that holds the file `first`."""
    path = f"{home}/repository"
    await got(sandbox.git.init(path, initial_branch="main"))
    await commit(sandbox, path, "first")
    return path


async def test_status_add_commit(sandbox: Sandbox, home: str) -> None:
    git, path = sandbox.git, f"{home}/repository"
    await got(git.init(path, initial_branch="main"))
    empty = await got(git.status(path))
    assert (empty.current_branch, empty.file_status, empty.detached) == ("main", [], False)
    await got(sandbox.files.write_files([{"path": f"{path}/{n}", "data": f"{n}\n" * 9} for n in ("a", "b", "c")]))
    found = {entry.name: entry.status for entry in (await got(git.status(path))).file_status}
    assert found == {"a": "untracked", "b": "untracked", "c": "untracked"}
    await got(git.add(path, files=["a"]))
    assert [entry.staged for entry in (await got(git.status(path))).file_status if entry.name == "a"] == [True]
    await got(git.add(path))
    await got(git.commit(path, "a message with 'quotes' & more", **AUTHOR))
    assert (await got(git.status(path))).file_status == []

    await got(sandbox.commands.run("echo more >> a; rm b; git mv c d; echo n > new; git add new", cwd=path))
    changed = await got(git.status(path))
    found = {entry.name: entry.status for entry in changed.file_status}
    assert found == {"a": "modified", "b": "deleted", "d": "renamed", "new": "added"}
    assert next(entry.renamed_from for entry in changed.file_status if entry.name == "d") == "c"
    log = await got(sandbox.commands.run("git log --format='%an <%ae> %s'", cwd=path))
    assert log.stdout == "A. Uthor <author@example.com> a message with 'quotes' & more\n"


async def test_authors_and_configuration(sandbox: Sandbox, home: str) -> None:
    path = await new(sandbox, home)
    git = sandbox.git
    await got(git.configure_user("Config Ured", "configured@example.com"))
    assert await got(git.get_config("user.email")) == "configured@example.com"
    await got(git.set_config("pull.rebase", "false", scope="local", path=path))
    assert await got(git.get_config("pull.rebase", scope="local", path=path)) == "false"
    assert await got(git.get_config("no.such")) is None
    await got(git.commit(path, "half", author_name="Over Ridden", allow_empty=True))
    log = await got(sandbox.commands.run("git log -1 --format='%an <%ae>'", cwd=path))
    assert log.stdout == "Over Ridden <configured@example.com>\n"
    await got(git.dangerously_authenticate("name", "secret", host="git.example", protocol="https"))
    assert await got(git.get_config("credential.helper")) == "store"
    stored = await got(sandbox.files.read("/home/user/.git-credentials"))
    assert stored.strip() == "https://name:secret@git.example"
    await got(sandbox.commands.run("rm -f ~/.git-credentials ~/.gitconfig"))


async def test_branches(sandbox: Sandbox, home: str) -> None:
    path = await new(sandbox, home)
    git = sandbox.git
    await got(git.create_branch(path, "feature/one"))
    listed = await got(git.branches(path))
    assert (set(listed.branches), listed.current_branch) == ({"main", "feature/one"}, "feature/one")
    await got(git.checkout_branch(path, "main"))
    assert (await got(git.branches(path))).current_branch == "main"
    await got(git.delete_branch(path, "feature/one"))
    assert (await got(git.branches(path))).branches == ["main"]
    with pytest.raises(e2b.CommandExitException):
        await got(git.checkout_branch(path, "absent"))


async def test_reset_and_restore(sandbox: Sandbox, home: str) -> None:
    path = await new(sandbox, home)
    git, files = sandbox.git, sandbox.files
    await got(files.write(f"{path}/first", "changed\n"))
    await got(git.add(path))
    await got(git.restore(path, ["first"], staged=True))
    entry = (await got(git.status(path))).file_status[0]
    assert (entry.status, entry.staged) == ("modified", False)
    await got(git.restore(path, ["first"]))
    assert await got(files.read(f"{path}/first")) == "x\n"
    await commit(sandbox, path, "second")
    await got(git.reset(path, mode="hard", target="HEAD~1"))
    assert await got(files.exists(f"{path}/second")) is False


async def test_remotes(sandbox: Sandbox, home: str) -> None:
    path = await new(sandbox, home)
    git = sandbox.git
    assert await got(git.remote_get(path, "origin")) is None
    await got(git.remote_add(path, "origin", "https://git.example/one.git"))
    assert await got(git.remote_get(path, "origin")) == "https://git.example/one.git"
    with pytest.raises(e2b.CommandExitException):
        await got(git.remote_add(path, "origin", "https://git.example/two.git"))
    await got(git.remote_add(path, "origin", "https://git.example/two.git", overwrite=True))
    assert await got(git.remote_get(path, "origin")) == "https://git.example/two.git"


async def test_no_upstream(sandbox: Sandbox, home: str) -> None:
    path = await new(sandbox, home)
    await got(sandbox.git.remote_add(path, "origin", f"{home}/none.git"))
    with pytest.raises(e2b.GitUpstreamException, match="no upstream branch is configured"):
        await got(sandbox.git.push(path, set_upstream=False))
    with pytest.raises(e2b.GitUpstreamException, match="no upstream branch is configured"):
        await got(sandbox.git.pull(path))


async def test_with_a_server(sandbox: Sandbox, home: str) -> None:
    """Clone, push and pull over the network, with git's own server in the sandbox."""
    git = sandbox.git
    path = await new(sandbox, home)
    await got(sandbox.commands.run("git init -q --bare --initial-branch=main server.git", cwd=home))
    served = (
        f"git daemon --base-path={home} --export-all --enable=receive-pack --reuseaddr --listen=127.0.0.1 --port=9418"
    )
    server = await got(sandbox.commands.run(served, background=True, timeout=0))

    async def listening() -> bool:
        found = await got(sandbox.commands.run("ss -Htln sport = :9418"))
        return bool(found.stdout)

    await until(listening)
    url = "git://127.0.0.1:9418/server.git"
    try:
        await got(git.remote_add(path, "origin", url))
        await got(git.push(path, remote="origin", branch="main"))
        assert (await got(git.status(path))).upstream == "origin/main"
        await got(git.clone(url, f"{home}/clone"))
        assert await got(sandbox.files.read(f"{home}/clone/first")) == "x\n"
        await commit(sandbox, f"{home}/clone", "second", "from the clone\n")
        assert (await got(git.status(f"{home}/clone"))).ahead == 1
        await got(git.push(f"{home}/clone"))
        await got(git.pull(path))
        assert await got(sandbox.files.read(f"{path}/second")) == "from the clone\n"
        await got(git.clone(url, f"{home}/shallow", branch="main", depth=1))
        depth = await got(sandbox.commands.run("git rev-list --count HEAD", cwd=f"{home}/shallow"))
        assert depth.stdout == "1\n"
    finally:
        assert await got(server.kill())
