"""The sandbox client for E2B of the OpenAI Agents SDK: a session with commands, files and a saved workspace."""

import asyncio
import io
from pathlib import Path

from agents.extensions.sandbox.e2b import E2BSandboxClient, E2BSandboxClientOptions, E2BSandboxType


async def main():
    client = E2BSandboxClient()
    session = await client.create(options=E2BSandboxClientOptions(E2BSandboxType.CODE_INTERPRETER))
    async with session:
        done = await session.exec("echo", "hello")
        assert (done.exit_code, done.stdout) == (0, b"hello\n"), done
        assert (await session.exec("sh", "-c", "exit 4")).exit_code == 4
        await session.write(Path("data.txt"), io.BytesIO(b"kept"))
        assert (await session.read(Path("data.txt"))).read() == b"kept"
        assert len((await session.persist_workspace()).read()) > 0
    await client.delete(session)


asyncio.run(main())
