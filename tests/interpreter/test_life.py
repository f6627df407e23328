"""Kernels and contexts that end, are interrupted, or come back (code-interpreter 2.10, 2.12)."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest
from tests.interpreter.support import SOURCES

if TYPE_CHECKING:
    from tests.interpreter.support import Client, Interpreter

# Starts ipykernel, the first time with one of its ports taken.
_LATE = """
import json, os, socket, sys
connection, marker = sys.argv[1:]
if not os.path.exists(marker):
    open(marker, "w").close()
    taken = socket.create_server(("127.0.0.1", json.load(open(connection))["iopub_port"]))
    taken.set_inheritable(True)
os.execv(sys.executable, [sys.executable, "-m", "ipykernel_launcher", "-f", connection])
"""
RESTARTED = {"name": "ContextRestarting", "value": "Context was restarted"}


async def test_a_disconnect_interrupts_and_the_next_cell_works_at_once(client: Client, context: str) -> None:
    """code-interpreter D45, without the pause: the next cell is sent in the moment of the disconnect."""
    for _ in range(3):
        async with client.running("import time; time.sleep(300)", context):
            pass
        assert (await client.run("1 + 1", context)).text == "2"
    await client.run("kept = 5", context)
    assert (await client.run("kept", context)).text == "5"


async def test_a_disconnect_before_the_cell_began_skips_it(client: Client, context: str) -> None:
    async with client.running("import time; time.sleep(1)", context) as cell:
        waiting = asyncio.create_task(client.run("skipped = True", context))
        await asyncio.sleep(0.2)
        waiting.cancel()
        await cell
    assert (await client.run("'skipped' in globals()", context)).text == "False"


async def test_code_that_survives_one_interrupt_gets_another(client: Client, context: str) -> None:
    code = "import time\ntry: time.sleep(300)\nexcept KeyboardInterrupt: time.sleep(300)"
    async with client.running(code, context):
        pass
    assert (await client.run("1 + 1", context)).text == "2"


@pytest.mark.parametrize("death", ["os._exit(1)", "os.kill(os.getpid(), 9)", "import ctypes; ctypes.string_at(0)"])
async def test_death_of_the_kernel(client: Client, context: str, death: str) -> None:
    await client.run("x = 1", context)
    answer = await client.run(f"import os; {death}", context)
    assert {key: answer.error[key] for key in RESTARTED} == RESTARTED
    answer = await client.run("'x' in globals()", context)
    assert answer.text == "False"
    assert answer.of("number_of_executions")[0]["execution_count"] == 1


async def test_output_before_the_death_arrives(client: Client, context: str) -> None:
    answer = await client.run("import os; print('last words', flush=True); os._exit(1)", context)
    assert answer.stdout == "last words\n"


async def test_exit_ends_the_cell_and_renews_the_kernel(client: Client, context: str) -> None:
    assert (await client.run("x = 1; exit()", context)).types == ["number_of_executions", "end_of_execution"]
    assert (await client.run("'x' in globals()", context)).text == "False"


async def test_restart(client: Client) -> None:
    """code-interpreter D18; the working directory stays."""
    context = await client.context(cwd="/tmp")
    await client.run("x = 1", context)
    response = await client.http.post(f"/contexts/{context}/restart")
    assert (response.status_code, response.json()) == (200, None)
    answer = await client.run("x", context)
    assert answer.error["value"] == "name 'x' is not defined"
    assert answer.of("number_of_executions")[0]["execution_count"] == 1
    assert (await client.run("import os; os.getcwd()", context)).text == "/tmp"
    await client.http.delete(f"/contexts/{context}")


async def test_restart_ends_a_running_cell_and_waiting_ones_run_after_it(client: Client, context: str) -> None:
    async with client.running("import time; time.sleep(300)", context) as cell:
        waiting = asyncio.create_task(client.run("6 * 7", context))
        await asyncio.sleep(0.1)
        await client.http.post(f"/contexts/{context}/restart")
        answer = await cell
    assert {key: answer.error[key] for key in RESTARTED} == RESTARTED
    assert (await waiting).text == "42"


async def test_removal_ends_running_and_waiting_cells(client: Client) -> None:
    context = await client.context()
    async with client.running("import time; time.sleep(300)", context) as cell:
        waiting = asyncio.create_task(client.run("1", context))
        await asyncio.sleep(0.1)
        response = await client.http.delete(f"/contexts/{context}")
        assert (response.status_code, response.json()) == (200, None)
        assert (await cell).error["name"] == "UnexpectedEndOfExecution"
        assert (await waiting).error["name"] == "UnexpectedEndOfExecution"


async def test_calls_on_a_removed_context_answer_404(client: Client) -> None:
    """code-interpreter D16"""
    context = await client.context()
    await client.http.delete(f"/contexts/{context}")
    listed = (await client.http.get("/contexts")).json()
    assert context not in [item["id"] for item in listed]
    for response in (
        await client.http.post("/execute", json={"code": "1", "context_id": context}),
        await client.http.post(f"/contexts/{context}/restart"),
        await client.http.delete(f"/contexts/{context}"),
    ):
        assert (response.status_code, response.text) == (404, f"Context {context} not found")


async def test_contexts_are_listed_in_order_of_creation(client: Client) -> None:
    """code-interpreter D14, D15, D17 (Python)"""
    made = [
        (await client.http.post("/contexts", json=body)).json() for body in ({}, {"language": "Python ", "cwd": "/"})
    ]
    listed = (await client.http.get("/contexts")).json()
    assert listed[0]["language"] == "python"
    assert listed[-2:] == made
    home = str(client.interpreter.home)
    assert [(item["language"], item["cwd"]) for item in made] == [("python", home), ("python", "/")]
    for item in made:
        await client.http.delete(f"/contexts/{item['id']}")


async def test_contexts_share_no_variables(client: Client, context: str) -> None:
    """code-interpreter D20"""
    await client.run("mine = 1")
    assert (await client.run("mine", context)).error["value"] == "name 'mine' is not defined"


async def test_a_context_starts_in_its_directory(client: Client) -> None:
    """code-interpreter D22"""
    folder = client.interpreter.home / 'it\'s "odd" \\ é'
    folder.mkdir()
    context = await client.context(cwd=str(folder))
    assert (await client.run("import os; print(os.getcwd(), end='')", context)).stdout == str(folder)
    await client.http.delete(f"/contexts/{context}")


@pytest.mark.parametrize("cwd", ["/no/such/directory", "/etc/passwd", "\0"])
async def test_a_directory_that_is_none(client: Client, cwd: str) -> None:
    """As E2B's service has it: Python starts without it, the directory is told as asked for; JavaScript and R are refused."""
    response = await client.http.post("/contexts", json={"cwd": cwd})
    context = response.json()
    assert (context["language"], context["cwd"]) == ("python", cwd)
    assert (await client.http.get("/contexts")).json()[-1] == context
    assert (await client.run("import os; os.getcwd()", context["id"])).text == str(client.interpreter.home)
    await client.http.delete(f"/contexts/{context['id']}")
    before = (await client.http.get("/contexts")).json()
    response = await client.http.post("/contexts", json={"language": "js", "cwd": cwd})
    assert response.status_code == 500
    assert response.text.startswith("Failed to set working directory")
    assert (await client.http.get("/contexts")).json() == before


async def test_languages_without_a_kernel(client: Client) -> None:
    before = (await client.http.get("/contexts")).json()
    for path, body in (("/execute", {"code": "1", "language": "cobol"}), ("/contexts", {"language": "cobol"})):
        response = await client.http.post(path, json=body)
        assert response.status_code == 500
        assert response.text.startswith("Failed to create context: No kernel for language 'cobol'")
    broken = await client.http.post("/contexts", json={"language": "broken"})
    assert broken.status_code == 500
    assert "no_such_module" in broken.text
    assert (await client.http.get("/contexts")).json() == before


async def test_a_kernelspec_name_is_a_language(client: Client) -> None:
    assert (await client.run("1", language="python3")).text == "1"
    languages = [item["language"] for item in (await client.http.get("/contexts")).json()]
    assert "python3" in languages


async def test_bash(client: Client) -> None:
    await client.run("X=5", language="bash")
    assert (await client.run("echo $X", language="bash")).stdout == "5\n"
    assert (await client.run("pwd", language="bash")).stdout.strip() == str(client.interpreter.home)


async def test_removing_the_default_context_makes_a_new_one_on_the_next_use(own: Interpreter) -> None:
    client = own.client()
    async with client.http:
        [default] = (await client.http.get("/contexts")).json()
        await client.http.delete(f"/contexts/{default['id']}")
        assert (await client.run("1")).text == "1"
        assert (await client.run("2", language="python")).text == "2"
        assert len((await client.http.get("/contexts")).json()) == 1


async def test_a_kernel_whose_port_is_taken_is_followed_by_another(own: Interpreter) -> None:
    """The port was free when it was chosen. ipykernel fails then, and with its iopub port it hangs instead of ending."""
    spec = own.folder / "jupyter" / "kernels" / "late" / "kernel.json"
    spec.parent.mkdir()
    marker = own.folder / "port-taken"
    argv = [sys.executable, "-c", _LATE, "{connection_file}", str(marker)]
    spec.write_text(json.dumps({"argv": argv, "display_name": "late", "language": "late"}))
    client = own.client()
    async with client.http:
        context = await client.context(language="late")
        assert marker.exists()
        assert (await client.run("1 + 1", context)).text == "2"


def test_a_kernel_that_lost_its_service_while_it_started_ends(tmp_path: Path) -> None:
    """The kernel asks to be ended with its parent, too late to be told."""
    source = SOURCES / "sandpit/guest/interpreter/inkernel/process.py"
    late = (
        "import os\nwhile os.getppid() != 1: pass\nopen('started', 'x')\nend_with_the_service()\nopen('outlived', 'x')"
    )
    code = f"exec(open({str(source)!r}).read())\n{late}"
    orphan = ["sh", "-c", '"$0" -c "$1" &', sys.executable, code]
    subprocess.run(orphan, cwd=tmp_path, capture_output=True, check=True)  # until it has closed its output
    assert [path.name for path in tmp_path.iterdir()] == ["started"]


async def test_many_contexts_at_once(client: Client) -> None:
    """20 contexts, 100 cells interleaved: every answer belongs to its cell."""
    contexts = await asyncio.gather(*(client.context() for _ in range(20)))

    async def cells(at: int, context: str) -> None:
        for step in range(5):
            answer = await client.run(f"x = {at * 100 + step}\nprint(x)\nx", context)
            assert (answer.text, answer.stdout) == (str(at * 100 + step), f"{at * 100 + step}\n")

    await asyncio.gather(*(cells(at, context) for at, context in enumerate(contexts)))
    await asyncio.gather(*(client.http.delete(f"/contexts/{context}") for context in contexts))


async def test_a_client_that_does_not_read_holds_the_kernel_back(client: Client, context: str) -> None:
    """Neither the service nor the kernel piles output up, nothing is lost, and others go on."""
    pid = int((await client.run("import os; os.getpid()", context)).text or 0)
    body = {"code": "for i in range(400): print('Q' * 1_000_000)", "context_id": context}
    async with client.http.stream("POST", "/execute", json=body) as response:
        await asyncio.sleep(3)
        service, kernel = _resident(client.interpreter.process.pid), _resident(pid)
        assert (await client.run("1 + 1")).text == "2"
        size = 0
        async for chunk in response.aiter_bytes():
            size += chunk.count(b"Q")
    assert size == 400_000_000
    assert service < 200
    assert kernel < 400


async def test_one_huge_print_is_bounded_too(client: Client, context: str) -> None:
    """It travels in several messages: the service never holds it as a whole."""
    size = 200_000_000
    code = f"print('Q' * {size})"
    async with client.http.stream("POST", "/execute", json={"code": code, "context_id": context}) as response:
        seen, largest = 0, 0.0
        async for chunk in response.aiter_bytes():
            seen += chunk.count(b"Q")
            largest = max(largest, _resident(client.interpreter.process.pid))
    assert seen == size
    assert largest < 300


async def test_the_kernel_keeps_no_copy_of_what_it_showed(client: Client, context: str) -> None:
    code = "from IPython.display import display\ndisplay({'text/plain': 'x'}, raw=True)\nprint('y')\n5"
    await client.run(code, context)
    assert (await client.run("len(getattr(get_ipython().history_manager, 'outputs', ()))", context)).text == "0"


async def test_a_client_that_left_unread_output_does_not_stop_the_context(client: Client, context: str) -> None:
    body = {"code": "while True: print('y' * 100_000)", "context_id": context}
    async with client.http.stream("POST", "/execute", json=body):
        await asyncio.sleep(0.5)
    assert (await client.run("1 + 1", context)).text == "2"


async def test_kernels_end_with_the_service(own: Interpreter) -> None:
    client = own.client()
    async with client.http:
        kernel = int((await client.run("import os; os.getpid()")).text or 0)
    own.process.send_signal(signal.SIGKILL)
    own.process.wait()
    for _ in range(100):
        if not Path(f"/proc/{kernel}").exists() or _is_zombie(kernel):
            break
        await asyncio.sleep(0.05)
    else:
        os.kill(kernel, signal.SIGKILL)
        pytest.fail("the kernel outlived the service")
    own.start()
    async with httpx.AsyncClient(base_url=own.url) as http:
        assert (await http.get("/health")).status_code == 200


async def test_the_port_is_closed_to_kernels(client: Client) -> None:
    """A process that a kernel left behind must not hold the service's port."""
    code = "import os; [os.readlink(f'/proc/self/fd/{fd}') for fd in os.listdir('/proc/self/fd') if os.path.exists(f'/proc/self/fd/{fd}')]"
    inodes = _listening_inodes(client.interpreter.port)
    assert inodes
    text = (await client.run(code)).text or ""
    assert not [inode for inode in inodes if f"socket:[{inode}]" in text]


def _resident(pid: int) -> float:
    """Resident memory in MB."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


def _is_zombie(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


def _listening_inodes(port: int) -> list[str]:
    rows = [row.split() for row in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return [row[9] for row in rows if row[1].endswith(f":{port:04X}") and row[3] == "0A"]
