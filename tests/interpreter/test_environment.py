"""Environment variables and the lives of a sandbox (code-interpreter 2.11; architecture, The guest)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.interpreter.support import SOURCES

if TYPE_CHECKING:
    from tests.interpreter.support import Client, Interpreter

NASTY = "it's \"q\" $HOME `id` \\ \\n\nnext\tline é \U0001f600 {} %s \\x27 '''"


@pytest.fixture
async def fresh(own: Interpreter) -> Client:
    return own.client()


def read(language: str, name: str) -> str:
    code = {"python": f"import os; print(os.getenv('{name}', 'none'), end='')", "bash": f'printf %s "${{{name}-none}}"'}
    return code[language]


@pytest.mark.parametrize("language", ["python", "bash"])
async def test_variables_of_an_execution(client: Client, language: str) -> None:
    """code-interpreter D29"""
    answer = await client.run(read(language, "FOO"), language=language, env_vars={"FOO": "bar"})
    assert answer.stdout.removesuffix("\n") == "bar"
    assert (await client.run(read(language, "FOO"), language=language)).stdout.removesuffix("\n") == "none"


@pytest.mark.parametrize("language", ["python", "bash"])
async def test_variables_of_the_sandbox(own: Interpreter, language: str) -> None:
    """code-interpreter D28, D30: also in kernels that ran before the sandbox had a name."""
    client = own.client()
    await client.run("1" if language == "python" else "true", language=language)
    own.write_instance("a" * 32, {"MY_VAR": "supertest", "OTHER": "1"})
    assert (await client.run(read(language, "MY_VAR"), language=language)).stdout.removesuffix("\n") == "supertest"
    assert (await client.run(read(language, "E2B_SANDBOX_ID"), language=language)).stdout.removesuffix("\n") == "sbx"
    answer = await client.run(read(language, "MY_VAR"), language=language, env_vars={"MY_VAR": "mine"})
    assert answer.stdout.removesuffix("\n") == "mine"
    assert (await client.run(read(language, "MY_VAR"), language=language)).stdout.removesuffix("\n") == "supertest"
    own.write_instance("b" * 32, {"OTHER": "2"})
    assert (await client.run(read(language, "MY_VAR"), language=language)).stdout.removesuffix("\n") == "none"
    assert (await client.run(read(language, "OTHER"), language=language)).stdout.removesuffix("\n") == "2"


async def test_variables_survive_restart_and_death(own: Interpreter) -> None:
    client = own.client()
    own.write_instance("a" * 32, {"MY_VAR": "supertest"})
    await client.run("import os; os._exit(1)")
    assert (await client.run(read("python", "MY_VAR"))).stdout.removesuffix("\n") == "supertest"
    [context] = (await client.http.get("/contexts")).json()
    await client.http.post(f"/contexts/{context['id']}/restart")
    assert (await client.run(read("python", "MY_VAR"))).stdout.removesuffix("\n") == "supertest"


@pytest.mark.parametrize("language", ["python", "bash"])
async def test_values_are_data(client: Client, language: str) -> None:
    answer = await client.run(read(language, "NASTY"), language=language, env_vars={"NASTY": NASTY})
    assert answer.stdout.replace("\r\n", "\n").removesuffix("\n") == NASTY


async def test_names_are_data(client: Client, context: str) -> None:
    name = "a'); import os; os._exit(1) #"
    answer = await client.run(f"import os; os.environ[{name!r}]", context, env_vars={name: "kept"})
    assert answer.text == "kept"
    answer = await client.run("printf ok", language="bash", env_vars={"a; exit 1": "x"})
    assert answer.stdout.removesuffix("\n") == "ok"


async def test_the_image_environment_comes_back_after_an_override(client: Client, context: str) -> None:
    code = read("python", "TEMPLATE_VARIABLE")
    assert (await client.run(code, context)).stdout.removesuffix("\n") == "from the image"
    assert (await client.run(code, context, env_vars={"TEMPLATE_VARIABLE": "x"})).stdout.removesuffix("\n") == "x"
    assert (await client.run(code, context)).stdout.removesuffix("\n") == "from the image"


async def test_variables_go_also_after_failure_and_disconnect(client: Client, context: str) -> None:
    await client.run("1/0", context, env_vars={"FOO": "bar"})
    assert (await client.run(read("python", "FOO"), context)).stdout.removesuffix("\n") == "none"


async def test_the_users_names_stay_free(client: Client, context: str) -> None:
    """Set-up leaves no variable, no history, no `_`, and does not use names that the user may have changed."""
    await client.run("json = os = random = sys = data = print = None; 41 + 1", context)
    answer = await client.run("_", context, env_vars={"FOO": "bar"})
    assert answer.text == "42"
    assert (await client.run("__import__('os').environ['FOO']", context, env_vars={"FOO": "x"})).text == "x"
    fresh = await client.context()
    names = (await client.run("[n for n in globals() if not n.startswith('_')]", fresh)).of("result")[0]["json"]
    assert set(names) <= {"In", "Out", "exit", "quit", "open", "get_ipython"}
    assert (await client.run("len(In)", fresh)).text == "3"
    await client.http.delete(f"/contexts/{fresh}")


async def test_another_life_has_other_randomness(own: Interpreter) -> None:
    """Two lives that start from the same state draw different numbers; the same life goes on with its own."""
    client = own.client()
    own.write_instance("a" * 32, {})
    seed = "import random, numpy; random.seed(1); numpy.random.seed(1)"
    draw = "[random.random(), float(numpy.random.random())]"
    await client.run(seed)
    one = (await client.run(draw)).of("result")[0]["json"]
    await client.run(seed)
    assert (await client.run(draw)).of("result")[0]["json"] == one
    await client.run(seed)
    own.write_instance("b" * 32, {})
    other = (await client.run(draw)).of("result")[0]["json"]
    assert other[0] != one[0]
    assert other[1] != one[1]


async def test_a_damaged_instance_file_changes_nothing(own: Interpreter) -> None:
    client = own.client()
    own.write_instance("a" * 32, {"MY_VAR": "kept"})
    assert (await client.run(read("python", "MY_VAR"))).stdout.removesuffix("\n") == "kept"
    for damage in ("{", "[]", "null", '{"envVars": 5}'):
        own.instance_file.write_text(damage)
        assert (await client.run(read("python", "MY_VAR"))).stdout.removesuffix("\n") == "kept"
    own.instance_file.unlink()
    assert (await client.run(read("python", "MY_VAR"))).stdout.removesuffix("\n") == "kept"


async def test_impossible_variables_of_the_sandbox_are_left_out(own: Interpreter) -> None:
    client = own.client()
    own.write_instance("a" * 32, {"": "x", "A=B": "x", "NUL": "\0", "GOOD": "1"})
    assert (await client.run(read("python", "GOOD"))).stdout.removesuffix("\n") == "1"
    await client.run("import os; os._exit(1)")
    assert (await client.run(read("python", "GOOD"))).stdout.removesuffix("\n") == "1"


async def test_nothing_of_the_service_reaches_kernels(client: Client, context: str) -> None:
    code = "import os; [k for k in os.environ if k.startswith('SANDPIT') or k in ('PYTHONHOME', 'JPY_PARENT_PID')]"
    assert (await client.run(code, context)).text == "[]"
    paths = (await client.run("import sys; print(*sys.path, sep='\\n')", context)).stdout.splitlines()
    assert "" in paths
    assert str(SOURCES) not in paths
