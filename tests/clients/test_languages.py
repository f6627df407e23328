"""R, Java, kernels that a template adds, and the packages that are promised (docs/interpreter.md)."""

from __future__ import annotations

import base64
import json
import re
from typing import TYPE_CHECKING

import e2b
import e2b_code_interpreter as ci
import pytest
from tests.machines import REPOSITORY

if TYPE_CHECKING:
    from collections.abc import Iterator

ODD = 'it\'s "quoted" \\ $HOME\nnext ☃'


@pytest.fixture(scope="module")
def sandbox(clients: dict[str, str]) -> Iterator[ci.Sandbox]:
    with ci.Sandbox.create(timeout=900, envs={"SHARED": "supertest"}) as sandbox:
        yield sandbox


def text(execution: ci.Execution) -> str:
    assert execution.error is None, execution.error
    return execution.text or ""


def test_r(sandbox: ci.Sandbox) -> None:
    def run(code: str, **options: object) -> ci.Execution:
        return sandbox.run_code(code, language="r", **options)

    said = run('print("Hello, World!")')
    assert (said.logs.stdout, said.results, said.execution_count) == (['[1] "Hello, World!"\n'], [], 1)
    assert text(run("getwd()")) == '[1] "/home/user"'
    table = run("x <- data.frame(a = 1:2)\nx")
    assert (table.text, table.execution_count) == ("  a\n1 1\n2 2", 3)
    assert "<table" in table.results[0].html
    both = run("1\n2")
    assert [(one.text, one.is_main_result) for one in both.results] == [("[1] 1", False), ("[1] 2", True)]
    assert [one.is_main_result for one in run("1\ny <- 2").results] == [False]
    plot = run("plot(1:3, main = '漢字')")
    assert base64.b64decode(plot.results[0].png).startswith(b"\x89PNG")
    failed = run('f <- function() stop("deep")\nf()')
    assert (failed.error.name, failed.error.value) == ("ERROR", "Error in f(): deep\n")
    assert 'stop("deep")' in failed.error.traceback
    assert run("message('careful')").logs.stderr
    assert "cannot ask for input" in run("readline('name? ')").error.value

    ask = 'cat(Sys.getenv("SHARED"), Sys.getenv("OWN"))'
    for envs, expected in ((None, "supertest "), ({"OWN": ODD, "SHARED": "mine"}, f"mine {ODD}"), (None, "supertest ")):
        assert "".join(run(ask, envs=envs).logs.stdout) == expected

    with pytest.raises(e2b.TimeoutException):
        run("repeat {}", timeout=0.5)
    assert text(run("nrow(x)")) == "[1] 2"
    assert run("q()").error is None
    assert "object 'x' not found" in run("x").error.value


def test_r_in_a_context(sandbox: ci.Sandbox) -> None:
    context = sandbox.create_code_context(language="R", cwd="/tmp")
    try:
        assert (context.language, text(sandbox.run_code("getwd()", context=context))) == ("r", '[1] "/tmp"')
        random = {text(sandbox.run_code("runif(1)", context=context)) for _ in range(2)}
        assert len(random) == 2
    finally:
        sandbox.remove_code_context(context)


def test_java(sandbox: ci.Sandbox) -> None:
    def run(code: str, **options: object) -> ci.Execution:
        return sandbox.run_code(code, language="java", **options)

    ask = 'System.out.print(System.getProperty("SHARED") + System.getProperty("OWN"))'
    for envs, expected in (
        (None, "supertestnull"),
        ({"OWN": ODD, "SHARED": "mine"}, f"mine{ODD}"),
        (None, "supertestnull"),
    ):
        assert "".join(run(ask, envs=envs).logs.stdout) == expected
    said = run('System.out.println("Hello, World!");')
    assert said.logs.stdout == ["Hello, World!", "\n"]
    assert said.execution_count == 4  # setting variables does not count
    assert text(run('System.getProperty("user.dir")')) == "/home/user"
    assert text(run("int x = 5; x + 1")) == "6"
    failed = run('throw new RuntimeException("boom");')
    assert failed.error.name == "RuntimeException"
    assert "boom" in failed.error.traceback
    assert "\x1b" not in failed.error.traceback
    with pytest.raises(e2b.TimeoutException):
        run("while (true) {}", timeout=0.5)
    assert text(run("x")) == "5"


def pause(milliseconds: int) -> str:
    return f"new Promise((done) => setTimeout(done, {milliseconds}))"


@pytest.mark.parametrize("language", ["javascript", "typescript"])
def test_a_promise_is_awaited(sandbox: ci.Sandbox, language: str) -> None:
    """As the last value of a cell it is the cell's value, and what is printed until then is in the output."""

    def run(code: str) -> ci.Execution:
        return sandbox.run_code(code, language=language)

    slow = f"console.log('a'); await {pause(300)}; console.error('b'); console.log('c')"
    done = run(f"(async () => {{ {slow}; return {{ n: 7 }} }})()")
    assert (done.text, done.logs.stdout, done.logs.stderr) == ("{ n: 7 }", ["a\n", "c\n"], ["b\n"])
    assert (text(run("Promise.resolve('text')")), text(run("Promise.all([1, Promise.resolve(2)])"))) == (
        "text",
        "[ 1, 2 ]",
    )
    assert text(run("({ then(done) { setTimeout(() => done('of a thenable'), 50) } })")) == "of a thenable"
    assert text(run("({ then: 1 })")) == "{ then: 1 }"
    assert text(run("import('node:path').then((path) => path.join('a', 'b'))")) == "a/b"
    assert text(run("var first = await Promise.resolve(1); Promise.resolve(first + 1)")) == "2"
    for code in (f"(async () => {{ {slow} }})()", f"var later = {pause(1)}", "function f() {}", f"void {pause(1)}"):
        assert (run(code).results, run(code).error) == ([], None), code
    assert text(run("[later]")).startswith("[ Promise {")  # only the value itself


def test_a_promise_that_is_rejected(sandbox: ci.Sandbox) -> None:
    def run(code: str) -> ci.Execution:
        return sandbox.run_code(code, language="javascript")

    failed = run(f"(async () => {{ console.log('before'); await {pause(200)}; throw new TypeError('bad') }})()")
    assert (failed.error.name, failed.error.value, failed.logs.stdout) == ("TypeError", "bad", ["before\n"])
    assert failed.error.traceback.startswith("TypeError: bad")
    assert "broadcastResult" not in failed.error.traceback
    assert failed.results == []
    for reason, value in (("'text'", "text"), ("5", "5"), ("undefined", "undefined"), ("{ a: 1 }", "{ a: 1 }")):
        error = run(f"Promise.reject({reason})").error
        assert (error.name, error.value) == ("Error", value)
    assert run("({ get then() { throw new RangeError('getter') } })").error.name == "RangeError"
    assert run("await Promise.reject(new SyntaxError('top'))").error.name == "SyntaxError"
    assert text(run("1 + 1")) == "2"


@pytest.mark.parametrize(
    "code", ["new Promise(() => {})", f"(async () => {{ await {pause(10**6)} }})()", "while (true) {}"]
)
def test_javascript_that_never_ends(sandbox: ci.Sandbox, code: str) -> None:
    """A client whose time is up interrupts it; the state stays, as in other languages."""
    kept = sandbox.run_code("globalThis.kept ??= crypto.randomUUID()", language="javascript")
    with pytest.raises(e2b.TimeoutException):
        sandbox.run_code(code, language="javascript", timeout=0.5)
    assert text(sandbox.run_code("globalThis.kept", language="javascript")) == text(kept)


def test_a_top_level_await_that_never_ends(sandbox: ci.Sandbox) -> None:
    """Deno does not interrupt it: the kernel ends, and the context has a new one."""
    with pytest.raises(e2b.TimeoutException):
        sandbox.run_code(f"await {pause(10**6)}", language="javascript", timeout=0.5)
    assert text(sandbox.run_code("1 + 1", language="javascript")) == "2"


def test_no_output_of_javascript_is_lost(sandbox: ci.Sandbox) -> None:
    """Deno's kernel says that it is idle before the last output is out."""
    for number in range(40):
        code = f"for (let i = 0; i < 20; i++) console.log(i)\n{number}"
        done = sandbox.run_code(code, language="javascript")
        assert (done.text, "".join(done.logs.stdout).split()) == (str(number), [str(i) for i in range(20)])
        failed = sandbox.run_code("console.log('said'); throw new Error('e')", language="javascript")
        assert (failed.logs.stdout, failed.error.value) == (["said\n"], "e")


def test_any_kernel_by_its_name_or_language(sandbox: ci.Sandbox) -> None:
    spec = {
        "argv": ["python3", "-m", "ipykernel_launcher", "-f", "{connection_file}"],
        "display_name": "Mine",
        "language": "own-language",
        "env": {"FROM_SPEC": "yes"},
    }
    with pytest.raises(e2b.SandboxException, match=r"installed kernels: bash, deno, ir, java, python3\)"):
        sandbox.run_code("1", language="my-kernel")
    sandbox.files.write("/usr/local/share/jupyter/kernels/my-kernel/kernel.json", json.dumps(spec))
    named = sandbox.run_code("import os; kept = 1; os.environ['FROM_SPEC']", language="my-kernel")
    assert text(named) == "yes"
    assert sandbox.run_code("kept").error.name == "NameError"  # it is no alias of the default context
    context = sandbox.create_code_context(language="own-language", cwd="/tmp")
    assert text(sandbox.run_code("import os; os.getcwd()", context=context)) == "/tmp"
    sandbox.remove_code_context(context)


def test_a_kernel_whose_program_is_missing(sandbox: ci.Sandbox) -> None:
    spec = {"argv": ["no-such-program", "{connection_file}"], "display_name": "Broken", "language": "broken"}
    sandbox.files.write("/usr/local/share/jupyter/kernels/broken/kernel.json", json.dumps(spec))
    with pytest.raises(e2b.SandboxException, match="'no-such-program' is not on the sandbox's PATH"):
        sandbox.run_code("1", language="broken")
    sandbox.commands.run("rm -r /usr/local/share/jupyter/kernels/broken", user="root")


def promised() -> dict[str, tuple[str, str]]:
    """The packages in docs/interpreter.md: module and version by name of the package."""
    page = (REPOSITORY / "docs/interpreter.md").read_text()
    return {
        name: (module, version)
        for name, version, module in re.findall(r"^\| `([\w-]+)` \| ([\w.]+) \| `(\w+)` \|$", page, re.M)
    }


def test_promised_packages(sandbox: ci.Sandbox) -> None:
    """Each can be imported, in the version that is promised."""
    packages = promised()
    assert len(packages) > 35
    code = (
        "import importlib, importlib.metadata\n"
        f"packages = {packages!r}\n"
        "found = {}\n"
        "for name, (module, _) in packages.items():\n"
        "    importlib.import_module(module)\n"
        "    found[name] = importlib.metadata.version(name)\n"
        "found"
    )
    context = sandbox.create_code_context()
    try:
        done = sandbox.run_code(code, context=context, timeout=55)
    finally:
        sandbox.remove_code_context(context)
    assert done.error is None, done.error
    assert done.results[0].json == {name: version for name, (_, version) in packages.items()}


def test_plotly_draws_images(sandbox: ci.Sandbox) -> None:
    """Its releases and those of kaleido go together, or not: with a warning in the first cell, and no image."""
    context = sandbox.create_code_context()
    try:
        shown = sandbox.run_code("import plotly.express as px; px.bar(x=['a'], y=[1])", context=context, timeout=55)
        assert (shown.error, shown.logs.stderr) == (None, [])
        assert "application/vnd.plotly.v1+json" in shown.results[-1].formats()
        image = sandbox.run_code("px.bar(x=['a'], y=[1]).to_image('png')[:4]", context=context, timeout=55)
        assert (image.error, image.logs.stderr, image.text) == (None, [], "b'\\x89PNG'")
    finally:
        sandbox.remove_code_context(context)


def test_kernels_end_with_the_service(sandbox: ci.Sandbox) -> None:
    """R's does not look for the service. The last test: it ends all contexts."""
    find = "pgrep -fa '/run/sandpit/interpreter/[0-9a-f]{32}' | grep -v bash | cut -d' ' -f1"
    sandbox.run_code("1", language="r")
    before = set(sandbox.commands.run(find, user="root").stdout.split())
    assert len(before) >= 2
    sandbox.commands.run("pkill -9 -f 'run.py interpreter'", user="root")
    gone = " && ".join(f"[ ! -e /proc/{pid} ]" for pid in before)
    sandbox.commands.run(f"until {gone}; do sleep 0.1; done", timeout=20)
