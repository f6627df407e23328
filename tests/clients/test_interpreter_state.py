"""The interpreter over pauses and forks: kernels, contexts and cells go on, randomness does not repeat."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import e2b_code_interpreter as ci
import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

RANDOM = (
    "import numpy, random, secrets, uuid\nrandom.random(), numpy.random.rand(), str(uuid.uuid4()), secrets.token_hex()"
)


@pytest.fixture
def interpreter(clients: dict[str, str]) -> Iterator[ci.Sandbox]:
    with ci.Sandbox.create(timeout=300) as sandbox:
        yield sandbox


def resumed(sandbox: ci.Sandbox) -> ci.Sandbox:
    sandbox.pause()
    return ci.Sandbox.connect(sandbox.sandbox_id, timeout=300)


def test_kernels_and_contexts_go_on(interpreter: ci.Sandbox) -> None:
    other = interpreter.create_code_context(language="python", cwd="/tmp")
    interpreter.run_code("x = 41")
    interpreter.run_code("import os; y = os.getcwd()", context=other)
    interpreter.run_code("import random; random.seed(7); first = random.random()")
    for _ in range(2):
        interpreter = resumed(interpreter)
        assert interpreter.run_code("x += 1; x").error is None
    assert interpreter.run_code("x").text == "43"
    assert interpreter.run_code("y", context=other).text == "/tmp"
    assert {context.id for context in interpreter.list_code_contexts()} >= {other.id}
    # The same sandbox has the same randomness as if it had never slept.
    interpreter.run_code("again = random.Random(7); again.random()")
    assert interpreter.run_code("random.random() == again.random()").text == "True"


def test_a_cell_goes_on_over_a_pause(interpreter: ci.Sandbox) -> None:
    cell = "import time\nfor n in range(200):\n    open('/tmp/n', 'w').write(str(n)); time.sleep(0.02)\ndone = n"
    failures: list[Exception] = []

    def run() -> None:
        try:
            interpreter.run_code(cell, timeout=60)
        except Exception as error:  # noqa: BLE001 - whatever the client makes of a stream that is cut
            failures.append(error)

    client = threading.Thread(target=run)
    client.start()
    while not interpreter.files.exists("/tmp/n"):
        pass
    interpreter = resumed(interpreter)
    client.join()
    assert failures
    assert interpreter.run_code("done").text == "199"


def test_copies_have_randomness_of_their_own(interpreter: ci.Sandbox) -> None:
    interpreter.run_code("x = 42\nimport random, numpy; random.seed(1); numpy.random.seed(1)")
    copies = [ci.Sandbox.connect(one.sandbox_id) for one in interpreter.fork(count=2, timeout=120)]
    try:
        drawn = [one.run_code(RANDOM).text for one in (interpreter, *copies)]
        assert len(set(drawn)) == 3
        values = [set(str(text).strip("()").split(", ")) for text in drawn]
        assert not values[0] & values[1]
        assert not values[1] & values[2]
        assert [one.run_code("x").text for one in copies] == ["42", "42"]
    finally:
        for one in copies:
            one.kill()
