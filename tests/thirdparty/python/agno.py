"""Agno's toolkit for E2B: Python, commands, files, a server's address."""

from agno.tools.e2b import E2BTools

tools = E2BTools()
try:
    assert "42" in tools.run_python_code("6 * 7")
    assert "ZeroDivisionError" in tools.run_python_code("1 / 0")
    assert "Linux" in tools.run_command("uname -s")
    tools.write_file_content("a.txt", "kept")
    assert "kept" in tools.read_file_content("a.txt")
    assert "a.txt" in tools.list_files("/home/user")
    assert "8080" in tools.get_public_url(8080)
finally:
    tools.shutdown_sandbox()
