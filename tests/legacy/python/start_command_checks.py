"""The start command's logs, and their absence: e2b 0.17.1."""

from __future__ import annotations

import unittest

from e2b import Sandbox
from e2b_code_interpreter import CodeInterpreter
from support import until


class StartCommand(unittest.TestCase):
    def test_its_output_comes_past_and_future(self):
        lines, errors = [], []
        sandbox = Sandbox(
            "with-start-command",
            on_stdout=lambda message: lines.append(message.line),
            on_stderr=lambda message: errors.append(message.line),
        )
        until(lambda: "started" in lines and "later" in lines, lines)
        self.assertEqual((lines[0], errors), ("started", []))
        Sandbox.kill(sandbox.id)
        sandbox.close()

    def test_without_one_nothing_comes(self):
        lines = []
        keep = lambda message: lines.append(message.line)  # noqa: E731
        sandbox = Sandbox("base", on_stdout=keep, on_stderr=keep)
        # When the program that reads the logs runs, what it had to say would have come.
        until(lambda: sandbox.process.start_and_wait("pgrep -x tail", on_stdout=lambda _: None).stdout, "the reader")
        self.assertEqual(lines, [])
        Sandbox.kill(sandbox.id)
        sandbox.close()

    def test_a_template_with_the_interpreters_start_command(self):
        with CodeInterpreter(template="custom-interpreter") as sandbox:
            self.assertEqual(sandbox.notebook.exec_cell("6 * 7").text, "42")
            CodeInterpreter.kill(sandbox.id)


if __name__ == "__main__":
    unittest.main()
