"""deepagents' backend of langchain-e2b: commands and files."""

from e2b import Sandbox
from langchain_e2b import E2BSandbox

with Sandbox.create() as sandbox:
    backend = E2BSandbox(sandbox=sandbox)
    done = backend.execute("echo out; echo err >&2; exit 3")
    assert (done.exit_code, done.output.split()) == (3, ["out", "err"]), done
    assert backend.write("/home/user/notes.txt", "one\ntwo\n").error is None
    assert backend.edit("/home/user/notes.txt", "two", "three").error is None
    assert "three" in str(backend.read("/home/user/notes.txt"))
    assert "notes.txt" in str(backend.ls("/home/user"))
    assert "notes.txt" in str(backend.grep("three", "/home/user"))
    assert "notes.txt" in str(backend.glob("*.txt", "/home/user"))
