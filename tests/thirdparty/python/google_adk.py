"""The plugin for E2B of the Agent Development Kit: its tools share a sandbox."""

import asyncio

from e2b_adk import E2BPlugin


async def main():
    plugin = E2BPlugin()
    tools = {tool.name: tool for tool in plugin.get_tools()}

    async def call(name, **arguments):
        answer = await tools[name].run_async(args=arguments, tool_context=None)
        assert answer["success"], answer
        return answer

    try:
        assert (await call("run_command", command="echo out; exit 8"))["exit_code"] == 8
        await call("write_file", path="/home/user/a.txt", content="kept")
        assert "kept" in str(await call("read_file", path="/home/user/a.txt"))
        assert "a.txt" in str(await call("list_files", path="/home/user"))
        assert "42" in str(await call("run_code", code="print(6 * 7)"))
    finally:
        await plugin.close()


asyncio.run(main())
