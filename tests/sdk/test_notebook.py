"""Cells and kernels (the 2024 documentation, "Code Execution" and "Kernels")."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.clients.flavours import got
from tests.sdk.conftest import async_only, blocking_only

from sandpit import KernelException, TimeoutException, text_for_llm

Interpreter = Any

CHART = """
import matplotlib.pyplot as plt
plt.plot([1, 2], [3, 4], label="a")
plt.title("T")
plt.show()
"too"
"""


async def test_variables_live_in_the_kernel(interpreter: Interpreter) -> None:
    run = interpreter.notebook.exec_cell
    await got(run("x = 1"))
    assert (await got(run("x += 1; x"))).text == "2"
    assert (await got(run("!pwd"))).logs.stdout == ["/home/user\r\n"]


async def test_output_and_results_as_they_come(interpreter: Interpreter) -> None:
    out: list[Any] = []
    results: list[Any] = []
    code = "import sys\nprint('one')\nprint('two', file=sys.stderr)\ndisplay(3)\n4"
    execution = await got(interpreter.notebook.exec_cell(code, None, out.append, out.append, results.append))
    assert sorted((message.line, message.error) for message in out) == [("one\n", False), ("two\n", True)]
    assert [(result.text, result.is_main_result) for result in results] == [("3", False), ("4", True)]
    assert (execution.logs.stdout, execution.logs.stderr) == (["one\n"], ["two\n"])
    assert execution.results == results
    assert execution.text == "4"
    assert execution.execution_count > 0


async def test_errors(interpreter: Interpreter) -> None:
    execution = await got(interpreter.notebook.exec_cell("missing_name"))
    assert (execution.error.name, execution.error.value) == ("NameError", "name 'missing_name' is not defined")
    assert "missing_name" in execution.error.traceback
    assert execution.to_llm().startswith("There was an error during execution: NameError: name 'missing_name'")
    seen: list[Any] = []
    await got(interpreter.run_code("1 / 0", on_error=seen.append))
    assert str(seen[0]) == "ZeroDivisionError: division by zero"


@blocking_only
async def test_charts(interpreter: Interpreter) -> None:
    execution = await got(interpreter.notebook.exec_cell(CHART))
    figure, value = execution.results
    assert figure.formats() == ["png", "chart"]
    assert figure["image/png"] == figure["png"] == figure.png
    assert (figure.chart.type, figure.chart.title) == ("line", "T")
    assert [(line.label, line.points) for line in figure.chart.elements] == [("a", [(1, 3), (2, 4)])]
    assert value.is_main_result
    told = text_for_llm(execution)
    assert "Result 1:\n[Display data]: <Figure" in told
    assert "formats: png, chart\nResult 2:\n[Main result]: too" in told
    shown = json.loads(execution.to_json())["results"]
    assert (shown[0]["chart"]["type"], shown[1]["text"]) == ("line", "too")


@async_only
async def test_a_table(interpreter: Interpreter) -> None:
    execution = await got(interpreter.notebook.exec_cell("import pandas as pd\npd.DataFrame({'a': [1, 2]})"))
    assert execution.results[0].formats() == ["html", "data"]
    assert execution.results[0].data == {"a": [1, 2]}


@async_only
async def test_kernels(interpreter: Interpreter) -> None:
    notebook = interpreter.notebook
    kernel_id = await got(notebook.create_kernel(cwd="/tmp"))
    await got(notebook.exec_cell("own = 1"))
    assert (await got(notebook.exec_cell("import os; os.getcwd()", kernel_id))).text == "/tmp"
    assert (await got(notebook.exec_cell("own", kernel_id=kernel_id))).error.name == "NameError"
    listed = {kernel: kernel for kernel in await got(notebook.list_kernels())}
    assert (listed[kernel_id].name, listed[kernel_id].cwd) == ("python3", "/tmp")
    await got(notebook.exec_cell("kept = 1", kernel_id=kernel_id))
    await got(notebook.restart_kernel(kernel_id))
    assert (await got(notebook.exec_cell("kept", kernel_id=kernel_id))).error.value == "name 'kept' is not defined"
    await got(notebook.shutdown_kernel(kernel_id))
    assert kernel_id not in await got(notebook.list_kernels())
    with pytest.raises(KernelException, match=f"{kernel_id} not found"):
        await got(notebook.exec_cell("1", kernel_id=kernel_id))
    with pytest.raises(KernelException, match="no-such-kernel"):
        await got(notebook.create_kernel(kernel_name="no-such-kernel"))


@blocking_only
async def test_the_default_kernel(interpreter: Interpreter) -> None:
    await got(interpreter.notebook.exec_cell("kept = 1"))
    await got(interpreter.notebook.restart_kernel())
    assert (await got(interpreter.notebook.exec_cell("kept"))).error.name == "NameError"


async def test_a_cell_is_interrupted_at_its_limit(interpreter: Interpreter) -> None:
    await got(interpreter.notebook.exec_cell("import time; before = 5"))
    with pytest.raises(TimeoutException, match=r"within 0\.5 s"):
        await got(interpreter.notebook.exec_cell("time.sleep(600)", timeout=0.5))
    assert (await got(interpreter.notebook.exec_cell("before"))).text == "5"


@blocking_only
async def test_languages_and_contexts(interpreter: Interpreter) -> None:
    assert (await got(interpreter.run_code("[1, 2].length", language="javascript"))).text == "2"
    context = await got(interpreter.create_code_context(cwd="/", language="javascript"))
    assert (await got(interpreter.run_code("process.cwd()", context=context))).text == "/"
    await got(interpreter.remove_code_context(context))


@async_only
async def test_environment(interpreter: Interpreter) -> None:
    code = "import os; os.environ.get('FOO', '-')"
    assert (await got(interpreter.run_code(code, envs={"FOO": "cell"}))).text == "cell"
    interpreter.env_vars["FOO"] = "object"
    assert (await got(interpreter.notebook.exec_cell(code))).text == "object"
    interpreter.env_vars.clear()
    assert (await got(interpreter.notebook.exec_cell(code))).text == "-"


@async_only
async def test_the_rest_of_a_sandbox_is_there_too(interpreter: Interpreter) -> None:
    await got(interpreter.filesystem.write("data.csv", "a,b\n1,2\n"))
    code = "import pandas; int(pandas.read_csv('data.csv').b.sum())"
    assert (await got(interpreter.notebook.exec_cell(code))).text == "2"
    assert (await got(interpreter.commands.run("cat data.csv"))).stdout == "a,b\n1,2\n"


@blocking_only
async def test_a_sandbox_without_an_interpreter(flavour: Any, base_id: str) -> None:
    sandbox = await got(flavour.CodeInterpreter.reconnect(base_id))
    try:
        with pytest.raises(KernelException, match=r"no code interpreter.*\n hint: create it with CodeInterpreter"):
            await got(sandbox.notebook.exec_cell("1"))
    finally:
        await got(sandbox.close())
