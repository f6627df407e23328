"""Inspect: a task whose samples run in E2B sandboxes, solved without a model."""

from tempfile import TemporaryDirectory

from inspect_ai import Task
from inspect_ai import eval as evaluate
from inspect_ai.dataset import Sample
from inspect_ai.scorer import exact
from inspect_ai.solver import solver
from inspect_ai.util import sandbox


@solver
def in_the_sandbox():
    async def solve(state, generate):
        await sandbox().write_file("data.txt", "kept")
        assert await sandbox().read_file("data.txt") == "kept"
        done = await sandbox().exec(["sh", "-c", "cat; exit 6"], input="given")
        assert (done.returncode, done.stdout) == (6, "given"), done
        state.output.completion = (await sandbox().exec(["uname", "-s"])).stdout.strip()
        return state

    return solve


with TemporaryDirectory() as logs:
    task = Task([Sample(input="?", target="Linux")], solver=in_the_sandbox(), scorer=exact(), sandbox="e2b")
    [log] = evaluate(task, model="mockllm/model", log_dir=logs, display="none")
    assert log.status == "success", log.error
    assert log.samples[0].scores["exact"].value == "C", log.samples[0].scores
