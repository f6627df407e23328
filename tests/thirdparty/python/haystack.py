"""Haystack's tools for E2B: commands, files and directories of one sandbox."""

from haystack_integrations.tools.e2b import E2BToolset

tools = E2BToolset()
tools.warm_up()
by_name = {tool.name: tool for tool in tools}
try:
    assert "exit_code: 7" in by_name["run_bash_command"].invoke(command="echo out; exit 7")
    by_name["write_file"].invoke(path="/home/user/a.txt", content="kept")
    assert by_name["read_file"].invoke(path="/home/user/a.txt") == "kept"
    assert "a.txt" in by_name["list_directory"].invoke(path="/home/user")
finally:
    tools.close()
