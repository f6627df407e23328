"""The SDK as a package: what it loads, that its two flavours are one, and its parts that need no server."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from typing import Any

import pytest
from tests.machines import REPOSITORY

import sandpit
from sandpit import sdk
from sandpit.protocol import links
from sandpit.sdk import signing, wire
from sandpit.sdk.config import Config
from sandpit.sdk.errors import AuthenticationException, SandboxException
from sandpit.sdk.results import Execution

HEAVY = {"asyncio", "httpx", "httpcore", "ssl", "rich", "pydantic", "typer", "sqlalchemy", "starlette", "uvloop"}


def loaded(code: str) -> set[str]:
    """The modules that a program has loaded."""
    program = f"import sys\n{code}\nprint(*sys.modules)"
    command = [sys.executable, "-c", program]
    environment = {"PYTHONPATH": str(REPOSITORY / "src")}
    return set(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.split())


def test_importing_is_cheap_and_needs_nothing_of_the_server() -> None:
    assert {name for name in loaded("import sandpit") if name.startswith("sandpit")} == {"sandpit"}
    modules = loaded("from sandpit import Sandbox, CodeInterpreter, TimeoutException, Execution")
    assert not HEAVY & modules
    modules = loaded(
        "import httpx; before = set(sys.modules)\n"
        "from sandpit import *; from sandpit.sdk import *\n"
        "from sandpit.sdk._sync import http, lifetime; from sandpit.sdk._async import http, lifetime\n"
        "for name in before: del sys.modules[name]\n"
    )
    assert {name.partition(".")[0] for name in modules if "sandpit" in name} == {"sandpit"}
    parts = {".".join(name.split(".")[:2]) for name in modules if "sandpit" in name}
    assert parts == {"sandpit", "sandpit.sdk", "sandpit.protocol"}


def test_every_name_is_there() -> None:
    for name in sdk.__all__:
        assert getattr(sandpit, name) is getattr(sdk, name)
    assert set(sdk.__all__) <= set(dir(sdk)) & set(dir(sandpit))
    with pytest.raises(AttributeError):
        print(sandpit.NoSuchName)
    with pytest.raises(ImportError):
        exec("from sandpit import no_such_module")


def test_the_blocking_twin_is_up_to_date() -> None:
    command = [sys.executable, "scripts/make_sync", "--check"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, ""), f"run scripts/make_sync: {done.stdout}{done.stderr}"


def shape(cls: type) -> dict[str, Any]:
    """The public members of a class, with their parameters."""
    members = {}
    for name, member in inspect.getmembers(cls):
        if not name.startswith("_") or name in ("__init__", "__enter__", "__aenter__"):
            function = inspect.unwrap(getattr(member, "fget", member))
            name = name.replace("__a", "__")
            members[name] = list(inspect.signature(function).parameters) if callable(function) else type(function)
    return members


@pytest.mark.parametrize("name", ["Sandbox", "CodeInterpreter"])
def test_the_two_flavours_are_equal(name: str) -> None:
    blocking, other = shape(getattr(sdk, name)), shape(getattr(sdk, f"Async{name}"))
    assert blocking == other
    assert {"process", "filesystem", "keep_alive", "get_hostname", "pause", "fork", "__init__"} <= set(blocking)


def test_host_names() -> None:
    """The server's domain wins, but on this machine the address that we have is as good, and needs no certificate."""
    here = Config("key", "http://127.0.0.1:3000", "http://127.0.0.1:3002", None)
    assert (here.scheme("e2b.localhost:3443"), here.host("i1", "e2b.localhost:3443")) == ("http", "i1.localhost:3002")
    assert (here.scheme("box.example"), here.host("i1", "box.example")) == ("https", "i1.box.example")
    away = Config("key", "http://10.0.0.1:3000", "http://10.0.0.1:3002", None)
    assert (away.scheme("box.example"), away.host("i1", "box.example")) == ("https", "i1.box.example")
    named = Config("key", "https://api.box.example", None, "box.example")
    assert (named.scheme("e2b.localhost"), named.host("i1", "e2b.localhost")) == ("https", "i1.e2b.localhost")


def test_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("API_KEY", "API_URL", "SANDBOX_URL", "DOMAIN"):
        monkeypatch.delenv(f"SANDPIT_{name}", raising=False)
        monkeypatch.delenv(f"E2B_{name}", raising=False)
    with pytest.raises(AuthenticationException, match="SANDPIT_API_KEY or E2B_API_KEY"):
        Config.resolve()
    here = Config.resolve("a-key")
    assert "a-key" not in repr(here)
    assert (here.api_url, here.sandbox_url) == ("http://127.0.0.1:3000", "http://127.0.0.1:3002")
    assert (here.host("i1", None), here.scheme(None)) == ("i1.localhost:3002", "http")
    assert (here.host("i1", "box.example"), here.scheme("box.example")) == ("i1.box.example", "https")
    named = Config.resolve("key", "example.org")
    assert (named.api_url, named.port_url("i1", 80, None)) == ("https://api.example.org", "https://80-i1.example.org")
    monkeypatch.setenv("E2B_API_KEY", "one")
    monkeypatch.setenv("E2B_API_URL", "http://10.0.0.1:3000/")
    assert (Config.resolve().api_key, Config.resolve().api_url) == ("one", "http://10.0.0.1:3000")
    with pytest.raises(SandboxException, match=r"no address.*\n hint: "):
        Config.resolve().port_url("i1", 80, None)
    monkeypatch.setenv("SANDPIT_API_KEY", "two")
    monkeypatch.setenv("SANDPIT_SANDBOX_URL", "http://10.0.0.1:3002")
    assert (Config.resolve().api_key, Config.resolve("three").api_key) == ("two", "three")
    assert Config.resolve().port_url("i1", 80, "x.org") == "http://10.0.0.1:3002"
    with pytest.raises(SandboxException, match="E2B_DOMAIN"):
        Config.resolve().host("i1", None)
    monkeypatch.setenv("SANDPIT_API_URL", "10.0.0.1:3000")
    with pytest.raises(SandboxException, match=r"API_URL is no address: '10\.0\.0\.1:3000'\n hint: "):
        Config.resolve()


def test_a_signature() -> None:
    """The protocol's own example (current-protocol 1.8)."""
    made = links.sign("hello.txt", "read", "user", "0tQG31xiMp0IOQfaz9dcwi72L1CPo8e0")
    assert made == "v1_gUtH/s9YCJWgCizjfUxuWfhFE4QSydOWEIIvfLwDr6E"
    assert signing.metadata_query({"a b": "c&d"}) == "a%2520b=c%2526d"


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_decoders_take_bytes_as_they_come(size: int) -> None:
    envelopes, lines = wire.Envelopes(), wire.LineDecoder()
    stream = wire.envelope({"a": "ż"}) + wire.envelope({"b": 2}) + b"\2\0\0\0\2{}"
    got = [message for start in range(0, len(stream), size) for message in envelopes.feed(stream[start : start + size])]
    assert (got, envelopes.end) == ([{"a": "ż"}, {"b": 2}], {})
    text = "eins\r\n\nżółć\nend".encode()
    found = [line for start in range(0, len(text), size) for line in lines.feed(text[start : start + size])]
    assert found + lines.feed(b"", final=True) == ["eins\r", "", "żółć", "end"]


def test_paths() -> None:
    cases = {("a", None): "/home/user/a", ("a", "/c"): "/c/a", ("~/a", "/c"): "/home/user/a", ("../../a", None): "/a",
             ("", "~/c/"): "/home/user/c", ("/a/../b", "/c"): "/b", ("./a", "x"): "/home/user/x/a"}  # fmt: skip
    assert {case: wire.resolve_path(*case) for case in cases} == cases
    assert wire.is_below("/a/b", "/a")
    assert not wire.is_below("/ab", "/a")


def test_sockets_of_a_table() -> None:
    table = "sl local rem st\n0: 0100007F:1FBB 00000000:0000 0A x\n1: 0000000000000000FFFF0000FE00A9A9:0050 x:0 01"
    assert [(port.ip, port.port, port.state) for port in wire.open_ports(table)] == [
        ("127.0.0.1", 8123, "LISTEN"), ("::ffff:169.169.0.254", 80, "ESTABLISHED"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("events", "text"),
    [
        ([], "There was no output of the execution."),
        ([{"type": "stdout", "text": "a\n"}, {"type": "stderr", "text": "b"}],
         "There was no result of the execution, but here are the logs:\nStdout: a\n\nStderr: b\n"),
        ([{"type": "result", "text": "1", "is_main_result": True}, {"type": "stdout", "text": "a"}],
         "These are results of the execution:\nResult 1:\n[Main result]: 1\n"),
        ([{"type": "error", "name": "E", "value": "v", "traceback": "t"}, {"type": "result", "text": "1"}],
         "There was an error during execution: E: v.\nt"),
    ],
)  # fmt: skip
def test_an_execution_in_words(events: list[dict[str, Any]], text: str) -> None:
    execution = Execution()
    for event in events:
        execution.take(event)
    assert execution.to_llm() == text
    assert len(json.loads(execution.to_json())["results"]) == len(execution.results)
