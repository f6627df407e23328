"""The code interpreter: e2b-code-interpreter 0.0.10."""

from __future__ import annotations

import base64
import unittest

from e2b_code_interpreter import CodeInterpreter
from e2b_code_interpreter.models import KernelException
from support import until

PLOT = """
import matplotlib.pyplot as plt
plt.plot([1, 3, 2])
plt.show()
"done"
"""


def setUpModule():
    global sandbox
    sandbox = CodeInterpreter()


def tearDownModule():
    CodeInterpreter.kill(sandbox.id)
    sandbox.close()


def cell(code, **options):
    return sandbox.notebook.exec_cell(code, **options)


class Cells(unittest.TestCase):
    def test_1_a_fresh_sandbox(self):
        """First of all, by its name: what comes later changes it."""
        self.assertEqual(sandbox.notebook.list_kernels(), [sandbox.notebook.default_kernel_id])
        self.assertEqual(cell("x = (").execution_count, 1)
        execution = cell("x = 1; x")
        self.assertEqual((execution.text, execution.execution_count), ("1", 2))
        self.assertEqual(cell("x += 1; x").text, "2")
        # IPython runs it in a terminal, whose last output gVisor can lose when the machine is busy.
        until(lambda: cell("!pwd").logs.stdout == ["/home/user\r\n"], "the directory")

    def test_charts(self):
        seen = []
        execution = cell(PLOT, on_result=lambda result: seen.append(result.formats()))
        chart, main = execution.results
        self.assertTrue(base64.b64decode(chart.png).startswith(b"\x89PNG"))
        self.assertTrue(chart.text.startswith("<Figure"))
        self.assertEqual((main.is_main_result, main.text, execution.text), (True, "'done'", "'done'"))
        self.assertEqual(seen, [["png"], []])

    def test_formats(self):
        html = cell("import pandas; pandas.DataFrame({'a': [1, 2]})").results[0]
        self.assertEqual(html.formats(), ["html"])
        self.assertIn("<table", html.html)
        code = "from IPython.display import *\nfor c in (HTML, Markdown, Latex, SVG, Javascript): display(c('<svg>x</svg>'))"
        self.assertEqual(
            [result.formats() for result in cell(code).results],
            [["html"], ["markdown"], ["latex"], ["svg"], ["javascript"]],
        )

    def test_streaming(self):
        out, errors = [], []
        execution = cell(
            "import sys, time\nprint(1)\ntime.sleep(0.3)\nprint(2)\nsys.stderr.write('wrong\\n')",
            on_stdout=lambda message: out.append(message.line),
            on_stderr=lambda message: errors.append(message.line),
        )
        self.assertEqual((out, errors), (["1\n", "2\n"], ["wrong\n"]))
        self.assertEqual((execution.logs.stdout, execution.logs.stderr), (out, errors))

    def test_errors(self):
        error = cell("1 / 0").error
        self.assertEqual((error.name, error.value), ("ZeroDivisionError", "division by zero"))
        self.assertIn("1 / 0", error.traceback)
        self.assertNotIn("\x1b", error.traceback)

    def test_a_cell_that_takes_too_long_goes_on(self):
        with self.assertRaises(TimeoutError):
            cell("import time; time.sleep(3); late = 5", timeout=1)
        self.assertEqual(cell("late").text, "5")

    def test_files_and_processes_are_the_same(self):
        cell("open('/home/user/from_cell', 'w').write('cell')")
        self.assertEqual(sandbox.filesystem.read("/home/user/from_cell"), "cell")
        self.assertEqual(sandbox.process.start_and_wait("cat from_cell").stdout, "cell")


class Kernels(unittest.TestCase):
    def test_create_restart_list_shut_down(self):
        cell("x = 1")
        kernel = sandbox.notebook.create_kernel(cwd="/tmp")
        self.assertEqual(cell("import os; os.getcwd()", kernel_id=kernel).text, "'/tmp'")
        self.assertEqual(cell("x", kernel_id=kernel).error.value, "name 'x' is not defined")
        self.assertIn(kernel, sandbox.notebook.list_kernels())
        cell("y = 1", kernel_id=kernel)
        sandbox.notebook.restart_kernel(kernel)
        self.assertEqual(cell("y", kernel_id=kernel).error.value, "name 'y' is not defined")
        self.assertEqual(cell("import os; os.getcwd()", kernel_id=kernel).text, "'/tmp'")
        sandbox.notebook.shutdown_kernel(kernel)
        self.assertEqual(sandbox.notebook.list_kernels(), [sandbox.notebook.default_kernel_id])
        self.assertEqual(cell("x").text, "1")

    def test_another_language(self):
        kernel = sandbox.notebook.create_kernel(kernel_name="bash")
        self.assertEqual(cell("echo $((6 * 7))", kernel_id=kernel).logs.stdout, ["42\n"])
        sandbox.notebook.shutdown_kernel(kernel)
        with self.assertRaises(KernelException):
            sandbox.notebook.create_kernel(kernel_name="cobol")

    def test_reconnect(self):
        cell("z = 26")
        again = CodeInterpreter.reconnect(sandbox.id)
        self.assertEqual(again.notebook.exec_cell("z").text, "26")
        again.close()


if __name__ == "__main__":
    unittest.main()
