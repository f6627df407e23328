"""Harbor's E2B environment: the template that it would build is there, then start, commands, files and stop."""

import asyncio
from pathlib import Path
from tempfile import TemporaryDirectory

from e2b import AsyncTemplate
from harbor.environments.e2b import E2BEnvironment
from harbor.models.task.config import EnvironmentConfig
from harbor.models.trial.paths import TrialPaths


async def main(folder):
    (folder / "task").mkdir()
    (folder / "task/Dockerfile").write_text("FROM base\nWORKDIR /home/user\n")
    paths = TrialPaths(trial_dir=folder / "trial")
    paths.mkdir()
    environment = E2BEnvironment(
        folder / "task", "task", "session", paths, EnvironmentConfig(), sandbox_timeout_secs=300
    )
    await AsyncTemplate.build(AsyncTemplate().from_template("base"), alias=environment._template_name)
    await environment.start(force_build=False)
    try:
        done = await environment.exec("echo out; exit 5")
        assert (done.return_code, done.stdout) == (5, "out\n"), done
        (folder / "up.txt").write_text("up")
        await environment.upload_file(folder / "up.txt", "/home/user/there.txt")
        await environment.download_file("/home/user/there.txt", folder / "down.txt")
        assert (folder / "down.txt").read_text() == "up"
    finally:
        await environment.stop(delete=True)


with TemporaryDirectory() as folder:
    asyncio.run(main(Path(folder)))
