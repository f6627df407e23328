"""A model that speaks OpenAI's chat protocol, with a sandbox as its tools: Python cells, and files.

Needs the packages `sandpit` and `openai`, OPENAI_API_KEY, and a Sandpit server. OPENAI_BASE_URL and OPENAI_MODEL name
any other server and model with this protocol, a local one too:

    eval "$(sandpit env)"
    python examples/openai_tools.py "Write the first 20 primes into primes.txt, and tell their sum."
"""

from __future__ import annotations

import json
import os
import sys

import openai

from sandpit import CodeInterpreter

MODEL = os.environ.get("OPENAI_MODEL", "gpt-5-mini")
TASK = "Write the first 20 primes into primes.txt, one per line, and tell me their sum."
SYSTEM = "Solve the task with the tools; they work in one isolated Linux machine. Then answer in one sentence."
MOST_TURNS = 8


def tool(name: str, description: str, **parameters: str) -> dict:
    """A tool whose parameters are all strings and all needed."""
    properties = {key: {"type": "string", "description": text} for key, text in parameters.items()}
    schema = {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}
    return {"type": "function", "function": {"name": name, "description": description, "parameters": schema}}


TOOLS = [
    tool("run_python", "Run a notebook cell; variables stay.", code="The whole cell."),
    tool("write_file", "Write a text file.", path="Where.", content="What."),
    tool("read_file", "Read a text file.", path="Which."),
]


def call(sandbox: CodeInterpreter, name: str, arguments: dict) -> str:
    """What a tool answers; a failure is an answer, too."""
    try:
        if name == "run_python":
            execution = sandbox.run_code(arguments["code"])
            if execution.error:
                return execution.error.traceback
            return "".join([*execution.logs.stdout, *execution.logs.stderr, execution.text or ""])
        if name == "write_file":
            sandbox.files.write(arguments["path"], arguments["content"])
            return "written"
        if name == "read_file":
            return sandbox.files.read(arguments["path"])
    except Exception as error:  # noqa: BLE001 - the model shall see what went wrong, and try otherwise
        return f"{type(error).__name__}: {error}"
    return f"there is no tool {name!r}"


def solve(client: openai.OpenAI, sandbox: CodeInterpreter, task: str) -> str:
    """Let the model work on a task until it answers in words."""
    messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": task}]
    for _ in range(MOST_TURNS):
        answer = client.chat.completions.create(model=MODEL, messages=messages, tools=TOOLS).choices[0].message
        if not answer.tool_calls:
            return answer.content or ""
        messages.append(answer.model_dump(exclude_none=True))
        for wanted in answer.tool_calls:
            print(f"{wanted.function.name}: {wanted.function.arguments}")
            text = call(sandbox, wanted.function.name, json.loads(wanted.function.arguments))
            messages.append({"role": "tool", "tool_call_id": wanted.id, "content": text})
    return f"(no answer after {MOST_TURNS} turns)"


def main() -> None:
    if not os.environ.get("OPENAI_API_KEY"):
        sys.exit("OPENAI_API_KEY is not set. With OPENAI_BASE_URL it may be anything that your server takes.")
    with CodeInterpreter() as sandbox:
        print(solve(openai.OpenAI(), sandbox, " ".join(sys.argv[1:]) or TASK))


if __name__ == "__main__":
    main()
