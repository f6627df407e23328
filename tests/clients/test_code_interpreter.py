"""Cells, contexts and results (code-interpreter 2.16)."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import threading
import zipfile
from typing import TYPE_CHECKING, Any

import e2b
import e2b_code_interpreter as ci
import pytest
import pytest_asyncio
from e2b_code_interpreter.charts import ChartType
from tests.clients.flavours import got

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.clients.flavours import Create, Flavour

    Sandbox = Any


@pytest.fixture(scope="module")
def shared_interpreter(clients: dict[str, str]) -> Iterator[ci.Sandbox]:
    """One sandbox for the tests that do not mind what others have run in its default context."""
    with ci.Sandbox.create(timeout=900) as sandbox:
        yield sandbox


@pytest_asyncio.fixture(loop_scope="session")
async def sandbox(flavour: Flavour, shared_interpreter: ci.Sandbox) -> Any:
    """The shared sandbox, through this flavour."""
    return shared_interpreter if flavour.blocking else await ci.AsyncSandbox.connect(shared_interpreter.sandbox_id)


@pytest_asyncio.fixture(loop_scope="session")
async def fresh(create: Create, flavour: Flavour) -> Any:
    """A sandbox of the test's own."""
    return await create(cls=flavour.Interpreter)


# Executions


async def test_a_fresh_sandbox(fresh: Sandbox) -> None:
    done = await got(fresh.run_code("x =1; x"))
    assert (done.text, done.error, done.execution_count) == ("1", None, 1)
    assert done.results[0].is_main_result
    assert done.logs.stdout == done.logs.stderr == []
    await got(fresh.run_code("x += 1"))
    assert (await got(fresh.run_code("x"))).text == "2"
    shell = await got(fresh.run_code("!pwd"))
    assert "".join(shell.logs.stdout).strip() == "/home/user"
    failed = await got(fresh.run_code("echo 'no python'"))
    assert failed.error.name == "SyntaxError"
    assert (await got(fresh.run_code("1"))).execution_count == 6  # failures count, too


async def test_connect_again(create: Create, flavour: Flavour) -> None:
    first = await create(cls=flavour.Interpreter)
    await got(first.run_code("kept = 7"))
    again = await got(flavour.Interpreter.connect(first.sandbox_id))
    assert (await got(again.run_code("kept"))).text == "7"


async def test_output_and_errors(sandbox: Sandbox) -> None:
    done = await got(sandbox.run_code("import sys\nprint('hello')\nprint('odd ☃', file=sys.stderr)\n'val' + 'ue'"))
    assert (done.logs.stdout, done.logs.stderr, done.text) == (["hello\n"], ["odd ☃\n"], "value")
    failed = await got(sandbox.run_code("print('before')\nxyz"))
    assert failed.logs.stdout == ["before\n"]
    assert (failed.error.name, failed.error.value) == ("NameError", "name 'xyz' is not defined")
    assert "NameError" in failed.error.traceback
    assert "\x1b" not in failed.error.traceback
    assert failed.results == []
    for nothing in ("", "  \n", "None", "y = 1", "1;", "def f(): pass"):
        silent = await got(sandbox.run_code(nothing))
        assert (silent.results, silent.error, silent.text) == ([], None, None), nothing
    indented = "\n        kept = 5\n        if kept:\n            kept += 1\n        kept\n    "
    assert (await got(sandbox.run_code(indented))).text == "6"
    assert (await got(sandbox.run_code("import asyncio\nawait asyncio.sleep(0, 'awaited')"))).text == "awaited"
    shell = await got(sandbox.run_code("%%bash\necho from bash"))
    assert shell.logs.stdout == ["from bash\n"]
    refused = await got(sandbox.run_code("input()"))
    assert refused.error.name == "StdinNotImplementedError"


async def test_lines_that_split_naive_readers(sandbox: Sandbox) -> None:
    text = "a\u2028b\u2029c\u0085d\x0ce\x1cf\r\ng 🎉 \ud83d"
    done = await got(sandbox.run_code(f"print({text[:-1]!r}, end='')"))
    assert "".join(done.logs.stdout) == text[:-1]


async def test_callbacks(sandbox: Sandbox, flavour: Flavour) -> None:
    calls: list[tuple[str, Any]] = []
    hooks = {
        f"on_{name}": (lambda value, name=name: calls.append((name, value)))
        for name in ("stdout", "stderr", "result", "error")
    }
    await got(sandbox.run_code("import sys; print('out'); print('err', file=sys.stderr); 5", **hooks))
    assert {(name, str(value)) for name, value in calls[:2]} == {("stdout", "out\n"), ("stderr", "err\n")}
    assert [message.error for _, message in calls[:2]] == [name == "stderr" for name, _ in calls[:2]]
    assert all(message.timestamp for _, message in calls[:2])
    assert [(name, value.text) for name, value in calls[2:]] == [("result", "5")]

    calls.clear()
    await got(sandbox.run_code("display(1)\ndisplay(2)\n3", **hooks))
    assert [(value.text, value.is_main_result) for _, value in calls] == [("1", False), ("2", False), ("3", True)]
    calls.clear()
    await got(sandbox.run_code("xyz", **hooks))
    assert [(name, value.value) for name, value in calls] == [("error", "name 'xyz' is not defined")]
    if not flavour.blocking:
        calls.clear()

        async def later(message: Any) -> None:
            await asyncio.sleep(0)
            calls.append(("later", message.line))

        await sandbox.run_code("print('x')", on_stdout=later)
        assert calls == [("later", "x\n")]


async def test_output_comes_while_the_cell_runs(sandbox: Sandbox) -> None:
    """The cell goes on only when its first line was seen: nothing on the way holds output back."""
    await got(sandbox.commands.run("rm -f /tmp/seen", user="root"))
    helper = e2b.Sandbox.connect(sandbox.sandbox_id)
    seen: list[str] = []

    def on_stdout(message: Any) -> None:
        seen.append(message.line)
        if message.line == "first\n":
            helper.files.write("/tmp/seen", "")

    code = "import os, time\nprint('first')\nwhile not os.path.exists('/tmp/seen'): time.sleep(0.05)\nprint('second')"
    done = await got(sandbox.run_code(code, on_stdout=on_stdout))
    assert seen == done.logs.stdout == ["first\n", "second\n"]


async def test_large_output(sandbox: Sandbox) -> None:
    done = await got(sandbox.run_code("for n in range(20_000): print(n, 'é' * 20)\n'x' * 3_000_000"))
    assert "".join(done.logs.stdout) == "".join(f"{n} {'é' * 20}\n" for n in range(20_000))
    assert done.text == "x" * 3_000_000
    one_line = await got(sandbox.run_code("print('y' * 5_000_000)"))
    assert "".join(one_line.logs.stdout) == "y" * 5_000_000 + "\n"


# Results


async def test_tables_and_containers(sandbox: Sandbox) -> None:
    frame = await got(
        sandbox.run_code("import pandas as pd\npd.DataFrame({'a': [1, 2, float('nan')], 'b': list('xyz')})")
    )
    result = frame.results[0]
    assert result.data == {"a": [1, 2, None], "b": ["x", "y", "z"]}
    assert "<table" in result.html
    assert result.text.split()[:2] == ["a", "b"]
    assert set(result.formats()) == {"text", "html", "data"}
    listed = await got(sandbox.run_code("[1, {'k': [True, None]}]"))
    assert listed.results[0].json == [1, {"k": [True, None]}]
    kept = await got(sandbox.run_code("list(range(5000))"))
    assert kept.text.replace("\n", "") == str(list(range(5000)))
    assert kept.results[0].json == list(range(5000))
    tuple_ = await got(sandbox.run_code("(1, 2)"))
    assert list(tuple_.results[0].formats()) == ["text"]


async def test_formats(sandbox: Sandbox) -> None:
    code = "from IPython.display import *\nobject_ = {}(r'''{}''')\nobject_"
    for maker, text, name in (
        ("HTML", "<b>x</b>", "html"),
        ("Markdown", "# x", "markdown"),
        ("Latex", r"\alpha", "latex"),
        ("SVG", "<svg xmlns='http://www.w3.org/2000/svg'></svg>", "svg"),
        ("Javascript", "x()", "javascript"),
    ):
        done = await got(sandbox.run_code(code.format(maker, text)))
        assert name in done.results[0].formats(), maker
        assert done.results[0].text
    raw = await got(sandbox.run_code(r"display({'text/latex': r'\text{CustomRepr}'}, raw=True)"))
    assert list(raw.results[0].formats()) == ["latex"]
    extra = await got(sandbox.run_code("display({'application/x-own': {'a': 1}, 'text/plain': 'p'}, raw=True)"))
    assert extra.results[0].extra == {"application/x-own": {"a": 1}}
    own = "class Own:\n    def _repr_e2b_data_(self): return {'col': [1]}\nOwn()"
    assert (await got(sandbox.run_code(own))).results[0].data == {"col": [1]}


async def test_images(sandbox: Sandbox) -> None:
    make = "from PIL import Image\nimage = Image.new('RGB', (20, 10), 'red')\n"
    for show in ("image.show()", "image", "image.save('/tmp/test.png')"):
        done = await got(sandbox.run_code(make + show))
        assert base64.b64decode(done.results[0].png).startswith(b"\x89PNG"), show
        assert done.error is None


async def run_chart(sandbox: Sandbox, code: str) -> Any:
    done = await got(sandbox.run_code("import matplotlib.pyplot as plt\n" + code + "\nplt.show()"))
    assert done.error is None, done.error
    result = done.results[0]
    assert base64.b64decode(result.png).startswith(b"\x89PNG")
    assert result.text.startswith("<Figure size")
    assert not result.extra
    return result.chart


async def test_charts(sandbox: Sandbox) -> None:
    bar = await run_chart(
        sandbox,
        "plt.bar(['A', 'B', 'C'], [100, 200, 300], label='Sold'); plt.xlabel('Who'); plt.ylabel('Books (n)'); plt.title('T')",
    )
    assert (bar.type, bar.title, bar.x_label, bar.y_label, bar.y_unit) == (
        ChartType.BAR,
        "T",
        "Who",
        "Books (n)",
        "n",
    )
    assert [(bar.label, bar.group, bar.value) for bar in bar.elements] == [
        ("A", "Sold", 100), ("B", "Sold", 200), ("C", "Sold", 300)
    ]  # fmt: skip
    line = await run_chart(sandbox, "plt.plot([1, 2, 3], [1, 4, 9], label='squares'); plt.yscale('log')")
    assert (line.type, line.y_scale, line.x_scale) == (ChartType.LINE, "log", "linear")
    assert [(one.label, one.points) for one in line.elements] == [("squares", [(1, 1), (2, 4), (3, 9)])]
    scatter = await run_chart(sandbox, "plt.scatter([1, 2], [3, 4], label='a'); plt.scatter([5], [6], label='b')")
    assert (scatter.type, scatter.title) == (ChartType.SCATTER, None)
    assert [(one.label, one.points) for one in scatter.elements] == [("a", [(1, 3), (2, 4)]), ("b", [(5, 6)])]
    pie = await run_chart(sandbox, "plt.pie([90, 10], labels=['Most', 'Few, really'])")
    assert [(one.label, one.angle, one.radius) for one in pie.elements] == [("Most", 324, 1), ("Few, really", 36, 1)]
    for notch in (False, True):
        code = f"plt.boxplot([[1, 2, 3, 4, 50], [2, 3, 4, 5, 6]], patch_artist=True, notch={notch})"
        box = await run_chart(sandbox, code)
        assert box.type == ChartType.BOX_AND_WHISKER
        quartiles = [(one.first_quartile, one.median, one.third_quartile, one.outliers) for one in box.elements]
        assert quartiles == [(2, 3, 4, [50]), (3, 4, 5, [])]
    both = await run_chart(
        sandbox, "f, (a, b) = plt.subplots(1, 2); f.suptitle('S'); a.plot([1, 2]); b.scatter([1], [2])"
    )
    assert (both.type, both.title) == (ChartType.SUPERCHART, "S")
    assert [one.type for one in both.elements] == [ChartType.LINE, ChartType.SCATTER]


async def test_a_figure_and_a_value(sandbox: Sandbox) -> None:
    code = "import matplotlib.pyplot as plt\nplt.plot([1, 2])\nplt.show()\n'value'"
    done = await got(sandbox.run_code(code))
    assert [(bool(one.png), one.is_main_result) for one in done.results] == [(True, False), (False, True)]
    assert done.text == "value"
    written = json.loads(done.to_json())
    assert written["results"][0]["chart"]["type"] == "line"


# Contexts


async def test_contexts(fresh: Sandbox) -> None:
    first = await got(fresh.list_code_contexts())
    assert [(one.language, one.cwd) for one in first][:1] == [("python", "/home/user")]
    made = await got(fresh.create_code_context())
    there = await got(fresh.create_code_context(cwd="/tmp", language="python"))
    assert (made.language, made.cwd, there.cwd) == ("python", "/home/user", "/tmp")
    listed = await got(fresh.list_code_contexts())
    assert [one.id for one in listed] == [*(one.id for one in first), made.id, there.id]

    await got(fresh.run_code("name = 'default'"))
    await got(fresh.run_code("name = 'made'", context=made))
    assert (await got(fresh.run_code("name"))).text == "default"
    assert (await got(fresh.run_code("name", context=made))).text == "made"
    where = await got(fresh.run_code("import os; name = 1; os.getcwd()", context=there))
    assert (where.text, where.execution_count) == ("/tmp", 1)

    await got(fresh.restart_code_context(there))
    lost = await got(fresh.run_code("name", context=there))
    assert lost.error.value == "name 'name' is not defined"
    assert (await got(fresh.run_code("import os; os.getcwd()", context=there))).text == "/tmp"
    await got(fresh.restart_code_context(made.id))

    await got(fresh.remove_code_context(made))
    await got(fresh.remove_code_context(there.id))
    assert [one.id for one in await got(fresh.list_code_contexts())] == [one.id for one in first]
    refused: list[Callable[[], Any]] = [
        lambda: fresh.run_code("1", context=made),
        lambda: fresh.remove_code_context(made),
        lambda: fresh.restart_code_context("unknown"),
    ]
    for call in refused:
        with pytest.raises(e2b.NotFoundException, match="not found"):
            await got(call())
    with pytest.raises(e2b.InvalidArgumentException):
        await got(fresh.run_code("1", context=made, language="python"))


async def test_a_context_in_roots_home(sandbox: Sandbox) -> None:
    made = await got(sandbox.create_code_context(cwd="/root", language="python"))
    try:
        assert (await got(sandbox.list_code_contexts()))[-1].cwd == "/root"
    finally:
        await got(sandbox.remove_code_context(made))


async def test_languages(sandbox: Sandbox) -> None:
    shell = await got(sandbox.run_code("value=7; echo $value; pwd", language="bash"))
    assert "".join(shell.logs.stdout) == "7\n/home/user\n"
    assert "".join((await got(sandbox.run_code("echo $value", language="bash"))).logs.stdout) == "7\n"
    failed = await got(sandbox.run_code("false", language="bash"))
    assert failed.error.value == "1"
    assert (await got(sandbox.run_code("1 + 1", language="python"))).text == "2"
    with pytest.raises(e2b.SandboxException, match="500"):
        await got(sandbox.run_code("1", language="cobol"))


async def test_contexts_run_side_by_side(sandbox: Sandbox, flavour: Flavour) -> None:
    """Each waits for what the other does."""
    if flavour.blocking:
        return  # one thread: see the async twin
    await sandbox.commands.run("rm -f /tmp/a /tmp/b", user="root")
    code = "import os, time\nopen('/tmp/{}', 'w').close()\nwhile not os.path.exists('/tmp/{}'): time.sleep(0.05)\n'met'"
    other = await sandbox.create_code_context()
    try:
        cells = (sandbox.run_code(code.format("a", "b")), sandbox.run_code(code.format("b", "a"), context=other))
        assert [one.text for one in await asyncio.gather(*cells)] == ["met", "met"]
        shell = sandbox.run_code("while [ ! -e /tmp/c ]; do sleep 0.05; done; echo met; rm /tmp/c", language="bash")
        python = sandbox.run_code("open('/tmp/c', 'w').close()")
        assert "".join((await asyncio.gather(shell, python))[0].logs.stdout) == "met\n"
    finally:
        await sandbox.remove_code_context(other)


# Environment


async def test_environment(create: Create, flavour: Flavour) -> None:
    odd = 'it\'s "quoted" \\ $HOME\nnext ☃'
    sandbox = await create(cls=flavour.Interpreter, envs={"SHARED": "supertest", "ODD": odd})
    ask = "import os; [os.environ.get(name, 'none') for name in ('SHARED', 'OWN', 'ODD')]"
    assert (await got(sandbox.run_code(ask))).results[0].json == ["supertest", "none", odd]
    own = {"OWN": odd, "SHARED": "mine"}
    assert (await got(sandbox.run_code(ask, envs=own))).results[0].json == ["mine", odd, odd]
    assert (await got(sandbox.run_code(ask))).results[0].json == ["supertest", "none", odd]
    context = await got(sandbox.create_code_context())
    assert (await got(sandbox.run_code(ask, context=context))).results[0].json == ["supertest", "none", odd]

    shell = "echo $SHARED ${OWN:-none}"
    for envs, expected in (
        (None, "supertest none\n"),
        ({"OWN": "x y", "SHARED": "mine"}, "mine x y\n"),
        (None, "supertest none\n"),
    ):
        done = await got(sandbox.run_code(shell, language="bash", envs=envs))
        assert "".join(done.logs.stdout) == expected
    told = await got(sandbox.run_code("import os; os.environ['E2B_SANDBOX_ID']"))
    assert told.text == sandbox.sandbox_id


# Ends


async def test_a_client_that_gives_up_interrupts(sandbox: Sandbox) -> None:
    await got(sandbox.run_code("kept = 3"))
    with pytest.raises(e2b.TimeoutException):
        await got(sandbox.run_code("import time\nwhile True: time.sleep(0.1)", timeout=1))
    assert (await got(sandbox.run_code("kept + 1", timeout=20))).text == "4"


async def test_no_timeout(sandbox: Sandbox) -> None:
    done = await got(sandbox.run_code("import time; time.sleep(0.5); 'done'", timeout=0))
    assert done.text == "done"


def test_kernels_that_die(clients: dict[str, str]) -> None:
    with ci.Sandbox.create() as sandbox:
        dead = sandbox.run_code("kept = 1\nimport os\nos.kill(os.getpid(), 9)")
        assert dead.error.name == "ContextRestarting"
        assert sandbox.run_code("kept").error.name == "NameError"
        assert sandbox.run_code("exit()").error is None
        assert sandbox.run_code("1 + 1").text == "2"


def test_services_that_die(clients: dict[str, str]) -> None:
    """Whatever root in the sandbox kills, code runs again. The service has the names of E2B's two, for who looks for them."""
    health = "curl -s -o /dev/null -w '%{http_code}' http://0.0.0.0:49999/health"
    with ci.Sandbox.create() as sandbox:
        assert sandbox.commands.run(health).stdout == "200"
        sandbox.run_code("kept = 1")
        sandbox.commands.run("pkill -9 -f 'run.py interpreter .*[j]upyter-server.*uvicorn main:app'", user="root")
        sandbox.commands.run(f'until [ "$({health})" = 200 ]; do sleep 0.1; done', timeout=40)
        assert sandbox.run_code("kept").error.name == "NameError"
        assert sandbox.run_code("1 + 1").text == "2"


async def test_the_sandbox_is_killed_under_a_cell(fresh: Sandbox) -> None:
    killer = e2b.Sandbox.connect(fresh.sandbox_id)
    started = threading.Event()

    def kill() -> None:
        started.wait(20)
        killer.kill()

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        code = "print('up', flush=True)\nimport time\ntime.sleep(300)"
        with pytest.raises(e2b.TimeoutException, match="sandbox was killed while the request was in progress"):
            await got(fresh.run_code(code, on_stdout=lambda _: started.set()))
    finally:
        started.set()
        thread.join()
    with pytest.raises(e2b.TimeoutException):
        await got(fresh.run_code("1"))


# Sandboxes


def test_sandboxes_differ(clients: dict[str, str]) -> None:
    """They come from one snapshot, but share neither randomness nor identity."""
    code = (
        "import random, uuid, os, secrets, tempfile, numpy\n"
        "[random.random(), numpy.random.rand(), str(uuid.uuid4()), str(uuid.uuid1()), os.urandom(8).hex(),"
        " secrets.token_hex(), tempfile.mktemp(), numpy.random.default_rng().random(),"
        " open('/etc/machine-id').read(), os.uname().nodename]"
    )
    with ci.Sandbox.create() as one, ci.Sandbox.create() as two:
        first, second = [box.run_code(code).results[0].json for box in (one, two)]
        assert [left for left, right in zip(first, second, strict=True) if left == right] == []
        shell = [box.run_code("echo $RANDOM$RANDOM", language="bash").logs.stdout for box in (one, two)]
        assert shell[0] != shell[1]


async def test_public_traffic_off(create: Create, flavour: Flavour) -> None:
    """Contexts are called without the access token, but with the traffic token."""
    sandbox = await create(cls=flavour.Interpreter, network={"allow_public_traffic": False})
    assert (await got(sandbox.run_code("1 + 1"))).text == "2"
    made = await got(sandbox.create_code_context(cwd="/tmp"))
    assert (await got(sandbox.run_code("import os; os.getcwd()", context=made))).text == "/tmp"
    await got(sandbox.restart_code_context(made))
    assert (await got(sandbox.list_code_contexts()))[-1].id == made.id
    await got(sandbox.remove_code_context(made))


async def test_commands_and_files_see_the_same_sandbox(sandbox: Sandbox) -> None:
    await got(sandbox.files.write("data.csv", "a,b\n1,2\n3,4\n"))
    done = await got(sandbox.run_code("import pandas as pd\nint(pd.read_csv('data.csv').values.sum())"))
    assert done.text == "10"
    await got(sandbox.run_code("open('made.txt', 'w').write('by the cell')"))
    assert (await got(sandbox.commands.run("cat made.txt; whoami"))).stdout == "by the celluser\n"
    await got(sandbox.files.write("made.txt", "changed"))
    assert (await got(sandbox.run_code("open('made.txt').read()"))).text == "changed"


# Packages


def wheel() -> bytes:
    """A package of one module (binary distribution format)."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        info = "greeting-1.0.dist-info"
        archive.writestr("greeting.py", "WORD = 'hello'\n")
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: greeting\nVersion: 1.0\n")
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")
    return content.getvalue()


@pytest.mark.parametrize("install", ["!pip install --no-index {}", "%pip install --no-index {}"])
async def test_a_package_installed_in_a_cell(fresh: Sandbox, install: str) -> None:
    """From a file: whether an index can be reached is the network's affair."""
    path = "/tmp/greeting-1.0-py3-none-any.whl"
    await got(fresh.files.write(path, wheel()))
    done = await got(fresh.run_code(install.format(path)))
    assert "Successfully installed greeting-1.0" in "".join(done.logs.stdout)
    assert (await got(fresh.run_code("import greeting; greeting.WORD"))).text == "hello"
