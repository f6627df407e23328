"""A data scientist in a sandbox: a model writes Python, Sandpit runs it, and a chart comes back.

Uses the official packages `e2b-code-interpreter` and `anthropic` as they are published. Point them at Sandpit first:

    eval "$(sandpit env)"
    python examples/data_scientist.py

With ANTHROPIC_API_KEY in the environment a model is asked: the newest Sonnet, or the one that ANTHROPIC_MODEL names.
Without it, the answer kept in `data_scientist_answer.json` is used, and the output says so.
"""

from __future__ import annotations

import base64
import json
import os
import sys
import time
from pathlib import Path

from e2b_code_interpreter import Execution, Sandbox

RECORDED = Path(__file__).with_name("data_scientist_answer.json")
CHART = Path("chart.png")

SYSTEM = (
    "You solve data analysis tasks by writing Python. Your code runs in a notebook cell of an isolated machine that has "
    "numpy, pandas, scipy and matplotlib, and keeps its variables between cells. Draw charts inline with matplotlib; "
    "do not save them. Use the tool run_python; do not answer in words only."
)
TASK = "Plot how the heights of adult men are distributed, as far as you know the figures, and print the median in cm."
TOOL = {
    "name": "run_python",
    "description": "Run Python code in a notebook cell. Returns what it prints, its charts, and its error if it fails.",
    "input_schema": {
        "type": "object",
        "properties": {"code": {"type": "string", "description": "The whole cell."}},
        "required": ["code"],
    },
}


def answer() -> list[dict]:
    """What a model says to the task, as content blocks; the kept answer when there is no key to ask one with."""
    if os.environ.get("ANTHROPIC_API_KEY"):
        return ask_model()
    print(f"ANTHROPIC_API_KEY is not set, so no model is asked: this is the answer kept in examples/{RECORDED.name}.")
    return json.loads(RECORDED.read_text())["content"]


def ask_model() -> list[dict]:
    """Ask a real model."""
    import anthropic

    client = anthropic.Anthropic()
    try:
        model = os.environ.get("ANTHROPIC_MODEL") or next(m.id for m in client.models.list() if "sonnet" in m.id)
        print(f"Asking {model}: {TASK}")
        messages = [{"role": "user", "content": TASK}]
        message = client.messages.create(model=model, max_tokens=4096, system=SYSTEM, tools=[TOOL], messages=messages)
    except anthropic.APIError as error:
        sys.exit(f"The model could not be asked: {error}")
    return message.to_dict()["content"]


def code_in(content: list[dict]) -> str:
    """The code of the first tool call in an answer."""
    for block in content:
        if block["type"] == "tool_use" and block["name"] == TOOL["name"]:
            return block["input"]["code"]
    sys.exit("The model answered without writing code; run this again.")


def show(execution: Execution) -> None:
    """Print what the cell printed and save its chart."""
    if execution.error:
        sys.exit(f"The code failed in the sandbox:\n{execution.error.traceback}")
    for line in execution.logs.stderr:
        print(f"stderr: {line.rstrip()}")
    print("stdout: " + "".join(execution.logs.stdout).rstrip())
    for result in execution.results:
        if result.png:
            CHART.write_bytes(base64.b64decode(result.png))
            print(f"Saved the chart to {CHART.absolute()}")
            return
    print("The code drew no chart.")


def main() -> None:
    if not os.environ.get("E2B_API_URL"):
        sys.exit('E2B_API_URL is not set, so this would go to E2B\'s own service: eval "$(sandpit env)" first.')
    code = code_in(answer())
    print(f"\n{code}\n")
    started = time.monotonic()
    with Sandbox.create() as sandbox:
        created = time.monotonic()
        execution = sandbox.run_code(code)
        ran = time.monotonic()
        show(execution)
    ended = time.monotonic()
    print(
        f"sandbox created in {created - started:.3f} s, first cell in {ran - created:.3f} s, "
        f"all of it (with kill) in {ended - started:.3f} s"
    )


if __name__ == "__main__":
    main()
