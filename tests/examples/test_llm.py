"""The examples with models, as a user runs them: the packages are real, the answers were written for these tests."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.examples.playback import HERE, Playback

if TYPE_CHECKING:
    from tests.live import Live

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def run(live: Live, directory: Path, program: str | Path, **environment: str) -> str:
    """What an example prints that must succeed."""
    return start(live, directory, [str(EXAMPLES / program)], environment)


def start(live: Live, directory: Path, arguments: list[str], environment: dict[str, str]) -> str:
    kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
    kept["PYTHONPATH"] = str(EXAMPLES.parent / "src")
    done = subprocess.run(
        [sys.executable, *arguments], env={**kept, **live.clients, **environment}, cwd=directory,
        capture_output=True, text=True, check=False, timeout=55,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_hello_world(live: Live, tmp_path: Path) -> None:
    """Claude's first cell fails, the second draws a chart, then it answers."""
    with Playback("hello_world") as model:
        printed = run(live, tmp_path, "hello_world.py", ANTHROPIC_API_KEY="kept", ANTHROPIC_BASE_URL=model.url)
    assert printed.endswith("The median height of adult men is about 171 cm.\n")
    assert (tmp_path / "chart-1.png").read_bytes().startswith(b"\x89PNG")
    assert [asked["path"] for asked in model.asked] == ["/v1/messages"] * 3
    failed, drawn = (asked["messages"][-1]["content"][0] for asked in model.asked[1:])
    assert (failed["tool_use_id"], failed["is_error"]) == ("toolu_1", True)
    assert "NameError: name 'height_of_men' is not defined" in failed["content"]
    assert (drawn["tool_use_id"], drawn["is_error"]) == ("toolu_2", False)
    assert "median height of men is" in drawn["content"]


def test_openai_tools(live: Live, tmp_path: Path) -> None:
    """One call, then three at once of which one fails, then an answer."""
    with Playback("openai_tools") as model:
        printed = run(live, tmp_path, "openai_tools.py", OPENAI_API_KEY="kept", OPENAI_BASE_URL=model.url)
    assert printed.endswith("their sum is 639.\n")
    told: dict[str, Any] = {
        one["tool_call_id"]: one["content"] for one in model.asked[-1]["messages"] if one["role"] == "tool"
    }
    assert told["call_1"].split()[-1] == "71"
    assert (told["call_2"], told["call_3"]) == ("written", "639")
    assert "missing.txt" in told["call_4"]


PROGRAM = """
import json, runpy, sys
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage
from langchain_core.outputs import ChatGeneration, ChatResult

class Kept(BaseChatModel):
    answers: list
    told: list = []
    def _generate(self, messages, stop=None, run_manager=None, **kwargs):
        self.told.append(messages[-1])
        return ChatResult(generations=[ChatGeneration(message=AIMessage(**self.answers[len(self.told) - 1]))])
    def bind_tools(self, tools, **kwargs):
        self.told.append(tools[0].name)
        self.told.clear()
        return self
    _llm_type = "kept"

example = runpy.run_path(sys.argv[1])
model = Kept(answers=json.load(open(sys.argv[2])))
with example["CodeInterpreter"]() as sandbox:
    answer = example["solve"](model, sandbox, example["TASK"])
result = model.told[-1]
print(json.dumps({"answer": answer, "id": result.tool_call_id, "content": result.content, "value": result.artifact.text}))
"""


def test_langchain_tool(live: Live, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    printed = start(
        live, tmp_path, [str(program), str(EXAMPLES / "langchain_tool.py"), str(HERE / "langchain_tool.json")], {}
    )
    assert json.loads(printed.splitlines()[-1]) == {
        "answer": "The 100th prime is 541.", "id": "call_1", "content": "541", "value": "541",
    }  # fmt: skip
