"""Hello world: Claude solves a task by writing Python, which runs in a sandbox, until it has an answer.

Needs the packages `sandpit` and `anthropic`, ANTHROPIC_API_KEY, and a Sandpit server:

    eval "$(sandpit env)"
    python examples/hello_world.py "Plot the heights of adult men as you know them, and print the median."
"""

from __future__ import annotations

import base64
import os
import sys
from pathlib import Path

import anthropic

from sandpit import CodeInterpreter, Execution

MODEL = os.environ.get("ANTHROPIC_MODEL", "claude-sonnet-4-5")
TASK = "Plot how the heights of adult men are distributed, as far as you know the figures, and print the median in cm."
SYSTEM = (
    "You solve tasks by writing Python. It runs in a notebook cell of an isolated machine that has numpy, pandas and "
    "matplotlib, and keeps its variables between cells. When you have the answer, say it in one sentence."
)
TOOL = {
    "name": "execute_python",
    "description": "Run Python in a notebook cell; returns what it prints, its value, and its error if it fails.",
    "input_schema": {
        "type": "object",
        "properties": {"code": {"type": "string", "description": "The whole cell."}},
        "required": ["code"],
    },
}
MOST_TURNS = 8


def execute_python(sandbox: CodeInterpreter, code: str) -> tuple[str, bool]:
    """Run code; returns what to tell the model, and whether it failed. Charts become files here."""
    print(f"\n{code}\n")
    execution = sandbox.run_code(code)
    save_charts(execution)
    if execution.error:
        return f"{execution.error.name}: {execution.error.value}\n{execution.error.traceback}", True
    parts = [*execution.logs.stdout, *execution.logs.stderr]
    parts += [result.text for result in execution.results if result.text]
    return "".join(parts) or "(no output)", False


def save_charts(execution: Execution) -> None:
    """Write each chart to a file."""
    for number, result in enumerate((one for one in execution.results if one.png), 1):
        path = Path(f"chart-{number}.png")
        path.write_bytes(base64.b64decode(result.png))
        print(f"saved {path.absolute()}")


def solve(client: anthropic.Anthropic, sandbox: CodeInterpreter, task: str) -> str:
    """Let the model work on a task until it answers in words."""
    messages = [{"role": "user", "content": task}]
    for _ in range(MOST_TURNS):
        answer = client.messages.create(model=MODEL, max_tokens=4096, system=SYSTEM, tools=[TOOL], messages=messages)
        messages.append({"role": "assistant", "content": answer.content})
        if answer.stop_reason != "tool_use":
            return "".join(block.text for block in answer.content if block.type == "text")
        results = []
        for block in answer.content:
            if block.type == "tool_use":
                text, failed = execute_python(sandbox, block.input["code"])
                results.append({"type": "tool_result", "tool_use_id": block.id, "content": text, "is_error": failed})
        messages.append({"role": "user", "content": results})
    return f"(no answer after {MOST_TURNS} turns)"


def main() -> None:
    if not os.environ.get("ANTHROPIC_API_KEY"):
        sys.exit("ANTHROPIC_API_KEY is not set: examples/data_scientist.py does without one.")
    task = " ".join(sys.argv[1:]) or TASK
    print(task)
    with CodeInterpreter() as sandbox:
        print(solve(anthropic.Anthropic(), sandbox, task))


if __name__ == "__main__":
    main()
