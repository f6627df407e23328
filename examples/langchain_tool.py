"""A sandbox as a LangChain tool, for any of its chat models and agents.

Needs the packages `sandpit` and `langchain-core`; to run this file also `langchain-anthropic`, ANTHROPIC_API_KEY, and a
Sandpit server:

    eval "$(sandpit env)"
    python examples/langchain_tool.py "What is the 100th prime?"
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from langchain_core.messages import HumanMessage
from langchain_core.tools import BaseTool, tool

from sandpit import CodeInterpreter

if TYPE_CHECKING:
    from langchain_core.language_models import BaseChatModel

MODEL = os.environ.get("ANTHROPIC_MODEL", "claude-sonnet-4-5")
TASK = "What is the 100th prime?"
MOST_TURNS = 8


def python_tool(sandbox: CodeInterpreter) -> BaseTool:
    """The tool: its text goes to the model, the whole execution with charts and values is the message's artifact."""

    @tool(response_format="content_and_artifact")
    def run_python(code: str) -> tuple[str, object]:
        """Run Python in a notebook cell; returns what it prints, its value, and its error if it fails."""
        execution = sandbox.run_code(code)
        if execution.error:
            return execution.error.traceback, execution
        return "".join(
            [*execution.logs.stdout, *execution.logs.stderr, execution.text or ""]
        ) or "(no output)", execution

    return run_python


def solve(model: BaseChatModel, sandbox: CodeInterpreter, task: str) -> str:
    """Let the model work on a task until it answers in words."""
    run_python = python_tool(sandbox)
    thinking = model.bind_tools([run_python])
    messages = [HumanMessage(task)]
    for _ in range(MOST_TURNS):
        answer = thinking.invoke(messages)
        messages.append(answer)
        if not answer.tool_calls:
            return str(answer.text)
        for wanted in answer.tool_calls:
            print(wanted["args"].get("code"))
            messages.append(run_python.invoke(wanted))
    return f"(no answer after {MOST_TURNS} turns)"


def main() -> None:
    if not os.environ.get("ANTHROPIC_API_KEY"):
        sys.exit("ANTHROPIC_API_KEY is not set.")
    from langchain_anthropic import ChatAnthropic

    with CodeInterpreter() as sandbox:
        print(solve(ChatAnthropic(model=MODEL), sandbox, " ".join(sys.argv[1:]) or TASK))


if __name__ == "__main__":
    main()
