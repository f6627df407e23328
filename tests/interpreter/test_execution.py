"""Cells and what comes back (code-interpreter 2.5, 2.6, 2.9)."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.interpreter.support import Client


async def test_value_of_the_last_expression(client: Client) -> None:
    """code-interpreter D1"""
    answer = await client.run("x =1; x")
    assert answer.text == "1"
    assert answer.of("result")[0]["extra"] == {}


async def test_state_persists(client: Client, context: str) -> None:
    """code-interpreter D2"""
    await client.run("x = 1", context)
    await client.run("x += 1", context)
    assert (await client.run("x", context)).text == "2"


async def test_shell_escape_starts_in_the_default_directory(client: Client) -> None:
    """code-interpreter D4"""
    answer = await client.run("!pwd")
    assert answer.stdout.strip() == str(client.interpreter.home)


async def test_a_failing_cell_counts_and_silent_set_up_does_not(client: Client, context: str) -> None:
    """code-interpreter D5"""
    first = await client.run("echo 'hi'", context)
    second = await client.run("1", context, env_vars={"A": "b"})
    third = await client.run("  \n ", context)
    counts = [answer.of("number_of_executions")[0]["execution_count"] for answer in (first, second)]
    assert counts == [1, 2]
    assert first.error["name"] == "SyntaxError"
    assert third.types == ["number_of_executions", "end_of_execution"]


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
async def test_one_print_is_one_event(client: Client, stream: str) -> None:
    """code-interpreter D6"""
    answer = await client.run(f"import sys; print('hello', file=sys.{stream})")
    [event] = answer.of(stream)
    assert event["text"] == "hello\n"
    assert "+00:00" in event["timestamp"]


async def test_exceptions_have_name_value_and_plain_traceback(client: Client) -> None:
    """code-interpreter D7"""
    answer = await client.run("xyz")
    assert answer.error["value"] == "name 'xyz' is not defined"
    assert answer.error["name"] == "NameError"
    assert "xyz" in answer.error["traceback"]
    assert "\x1b" not in answer.error["traceback"]


async def test_order_of_events(client: Client) -> None:
    """code-interpreter D9"""
    answer = await client.run("print(1)\n2")
    assert answer.types == ["number_of_executions", "stdout", "result", "end_of_execution"]


async def test_output_arrives_while_the_cell_runs(client: Client, context: str) -> None:
    """code-interpreter D10: the cell waits for a file that only appears after its first line was read."""
    gate = client.interpreter.home / "gate"
    code = f"import os, time\nwhile not os.path.exists({str(gate)!r}): time.sleep(0.05)\nprint('opened')"
    async with client.running(code, context) as cell:
        gate.touch()
        answer = await cell
    assert [event["text"] for event in answer.of("stdout")] == ["started\n", "opened\n"]


async def test_two_languages_at_once(client: Client, context: str) -> None:
    """code-interpreter D11: each waits for the other."""
    a, b = client.interpreter.home / "a", client.interpreter.home / "b"
    python = f"import time, pathlib\npathlib.Path({str(a)!r}).touch()\nwhile not pathlib.Path({str(b)!r}).exists(): time.sleep(0.05)"
    bash = f"touch {b}; while [ ! -e {a} ]; do sleep 0.05; done; echo met"
    _, answer = await asyncio.gather(client.run(python, context), client.run(bash, language="bash"))
    assert answer.stdout.strip() == "met"


async def test_indented_code_runs(client: Client) -> None:
    """code-interpreter D12"""
    assert (await client.run("\n        x = 3\n        x\n    ")).text == "3"


async def test_statement_and_none_have_no_result(client: Client) -> None:
    for code in ("x = 1", "None", "5;"):
        assert (await client.run(code)).types == ["number_of_executions", "end_of_execution"]


async def test_input_is_refused(client: Client) -> None:
    assert (await client.run("input()")).error["name"] == "StdinNotImplementedError"


async def test_top_level_await_and_magics(client: Client) -> None:
    assert (await client.run("import asyncio\nawait asyncio.sleep(0, 'slept')")).text == "slept"
    assert (await client.run("%%bash\necho from bash")).stdout == "from bash\n"
    answer = await client.run("%%bash\nexit 3")
    assert answer.error["name"] == "CalledProcessError"


async def test_cell_magic_on_the_first_line_works_with_variables(client: Client, context: str) -> None:
    """Variables are no text in front of the user's code."""
    answer = await client.run("%%bash\necho $GREETING", context, env_vars={"GREETING": 'it\'s "me"\n'})
    assert answer.stdout.startswith('it\'s "me"')
    answer = await client.run("1/0", context, env_vars={"A": "b"})
    assert "line 1" in answer.error["traceback"]


async def test_text_of_every_kind(client: Client) -> None:
    """Whatever the text, the line is ASCII and JSON (the client checks)."""
    text = "é 漢字 \U0001f600 \u2028\u2029\x85 \x00 \x1b[0m \r\n"
    assert (await client.run(f"print({text!r}, end='')")).stdout == text
    assert (await client.run("print('\\ud800', end='')")).stdout == "\ud800"
    assert (await client.run("'\\udcff'")).text == "\\udcff"
    lone = await client.run("print('\ud800')")
    assert lone.types[-2:] == ["error", "end_of_execution"]
    assert (await client.run("1")).text == "1"


async def test_ten_megabytes_arrive_complete(client: Client, context: str) -> None:
    one = await client.run("print('x' * 10_000_000, end='')", context)
    assert len(one.stdout) == 10_000_000
    many = await client.run("for i in range(200_000): print(f'{i:050}')", context)
    assert many.stdout == "".join(f"{i:050}\n" for i in range(200_000))


async def test_many_displays_arrive_in_order(client: Client, context: str) -> None:
    answer = await client.run("for i in range(5000): display(i)", context)
    assert [event["text"] for event in answer.of("result")] == [str(i) for i in range(5000)]


async def test_a_failure_that_only_the_reply_tells(client: Client, context: str) -> None:
    """As Deno does when a module cannot be loaded."""
    await client.run("get_ipython()._showtraceback = lambda *arguments: None", context)
    answer = await client.run("1 / 0", context)
    assert (answer.error["name"], answer.error["value"]) == ("ZeroDivisionError", "division by zero")
    assert answer.types[-2:] == ["error", "end_of_execution"]


async def test_infinite_recursion_is_an_error(client: Client, context: str) -> None:
    answer = await client.run("def f(): return f()\nf()", context)
    assert answer.error["name"] == "RecursionError"
    assert (await client.run("1", context)).text == "1"


async def test_threads_may_print_after_the_cell(client: Client, context: str) -> None:
    code = """
import threading, time
def talk():
    for i in range(50):
        print("late", i); time.sleep(0.01)
thread = threading.Thread(target=talk); thread.start()
"""
    await client.run(code, context)
    answer = await client.run("thread.join(); print('mine')", context)
    assert "mine\n" in answer.stdout
    assert (await client.run("2", context)).types == ["number_of_executions", "result", "end_of_execution"]


async def test_keepalives_come_also_while_waiting_for_a_turn(client: Client, context: str) -> None:
    async with client.running("import time; time.sleep(5.5)", context):
        answer = await client.run("1", context)
    assert answer.types[0] == "keepalive"
    assert answer.text == "1"


async def test_cells_of_a_context_run_one_after_the_other(client: Client, context: str) -> None:
    await client.run("seen = []", context)
    async with client.running("import time; time.sleep(0.3)", context):
        waiting = []
        for i in range(5):
            waiting.append(asyncio.create_task(client.run(f"seen.append({i})", context)))
            await asyncio.sleep(0.05)
        await asyncio.gather(*waiting)
    assert (await client.run("seen", context)).of("result")[0]["json"] == [0, 1, 2, 3, 4]


async def test_context_and_language_exclude_each_other(client: Client, context: str) -> None:
    body = {"code": "1", "context_id": context, "language": "python"}
    response = await client.http.post("/execute", json=body)
    assert (response.status_code, response.text) == (400, "Only one of context_id or language can be provided")


@pytest.mark.parametrize(
    ("body", "location"),
    [
        (b"", ["body"]),
        (b"{", ["body"]),
        (b"[]", ["body"]),
        (b"{}", ["body", "code"]),
        (b'{"code": 1}', ["body", "code"]),
        (b'{"code": "1", "context_id": 5}', ["body", "context_id"]),
        (b'{"code": "1", "env_vars": {"A": 1}}', ["body", "env_vars"]),
        (b'{"code": "1", "env_vars": {"A=B": "1"}}', ["body", "env_vars"]),
        (b'{"code": "1", "env_vars": {"A": "\\u0000"}}', ["body", "env_vars"]),
        (b'{"code": "1", "env_vars": {"A": "\\ud800"}}', ["body", "env_vars"]),
        (b"\xff", ["body"]),
        (b"[" * 100_000, ["body"]),
    ],
)
async def test_invalid_bodies_are_refused(client: Client, body: bytes, location: list[str]) -> None:
    response = await client.http.post("/execute", content=body)
    assert response.status_code == 422
    [detail] = response.json()["detail"]
    assert detail["loc"] == location
    assert set(detail) == {"type", "loc", "msg", "input"}


async def test_health_and_unknown_routes(client: Client) -> None:
    """code-interpreter D13"""
    health = await client.http.get("/health")
    assert (health.status_code, health.content) == (200, b'"OK"')
    missing = await client.http.get("/nothing")
    assert (missing.status_code, missing.json()) == (404, {"detail": "Not Found"})
    wrong = await client.http.get("/execute")
    assert (wrong.status_code, wrong.json()) == (405, {"detail": "Method Not Allowed"})
    preflight = await client.http.options(
        "/execute", headers={"Origin": "http://a", "Access-Control-Request-Method": "POST"}
    )
    assert (preflight.status_code, preflight.text) == (200, "OK")


async def test_unknown_query_parameters_are_ignored(client: Client) -> None:
    response = await client.http.post("/execute?source=ci", content=json.dumps({"code": "1"}))
    assert response.status_code == 200


async def test_a_missing_kernel_is_told_with_what_to_install(client: Client) -> None:
    for language, package in (("r", "r-cran-irkernel"), ("java", "jjava, and Debian's openjdk-17-jre-headless")):
        refused = await client.http.post("/contexts", json={"language": language})
        assert refused.status_code == 500
        assert refused.text.endswith(package)
        assert "installed kernels: bash, broken, python3)" in refused.text
