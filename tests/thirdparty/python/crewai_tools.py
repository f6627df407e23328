"""CrewAI's tools for E2B: a command, Python with a state, files."""

from crewai_tools import E2BExecTool, E2BFileTool, E2BPythonTool

done = E2BExecTool().run(command="echo out")
assert (done["exit_code"], done["stdout"]) == (0, "out\n"), done
python = E2BPythonTool(persistent=True)
python.run(code="x = 41")
assert "42" in str(python.run(code="x + 1"))
files = E2BFileTool(persistent=True)
files.run(action="write", path="/home/user/a.txt", content="kept")
assert "kept" in str(files.run(action="read", path="/home/user/a.txt"))
