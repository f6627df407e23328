"""Everything that happens inside one sandbox: e2b 0.17.1."""

from __future__ import annotations

import io
import os
import threading
import unittest

import requests
import websockets.sync.client
from e2b import CurrentWorkingDirectoryDoesntExistException, FilesystemException, ProcessException, Sandbox
from support import until

SERVER = os.environ["SANDPIT_TEST_SERVER"]


def setUpModule():
    global sandbox
    sandbox = Sandbox(env_vars={"SHARED": "sandbox", "BOTH": "sandbox"})


def tearDownModule():
    Sandbox.kill(sandbox.id)
    sandbox.close()


def run(command, **options):
    return sandbox.process.start_and_wait(command, **options)


class Processes(unittest.TestCase):
    def test_output_and_exit_code(self):
        output = run("pwd; echo wrong >&2; exit 3", cwd="/tmp")
        self.assertEqual((output.stdout, output.stderr, output.exit_code), ("/tmp", "wrong", 3))
        self.assertTrue(output.error)

    def test_streams_and_the_exit_are_told(self):
        lines, errors, codes = [], [], []
        process = sandbox.process.start(
            "printf 'a\\n\\nb'; echo c >&2",
            on_stdout=lambda message: lines.append((message.line, message.timestamp)),
            on_stderr=lambda message: errors.append(message.line),
            on_exit=codes.append,
        )
        process.wait()
        self.assertEqual([line for line, _ in lines], ["a", "", "b"])
        self.assertEqual(sorted(lines, key=lambda line: line[1]), lines)
        self.assertEqual((errors, codes), (["c"], [0]))

    def test_a_thousand_lines_come_in_order(self):
        output = run("seq 1 5000")
        self.assertEqual(output.stdout.split(), [str(number) for number in range(1, 5001)])

    def test_text_that_is_not_ascii(self):
        self.assertEqual(run("printf 'gr\\303\\274n \\342\\202\\254 \\377'").stdout, "grün € \ufffd")

    def test_stdin(self):
        lines = []
        process = sandbox.process.start(
            'read -r line; echo "$line"; cat', on_stdout=lambda message: lines.append(message.line)
        )
        process.send_stdin("ping\n")
        process.send_stdin("pong\n")
        until(lambda: lines == ["ping", "pong"], lines)
        process.kill()

    def test_stop(self):
        codes = []
        process = sandbox.process.start("sleep 1000 & sleep 1000", on_exit=codes.append)
        process.kill()
        until(lambda: codes, "the exit")
        self.assertIn(process.output.exit_code, (None, -1))
        self.assertEqual(run("pgrep -x sleep").stdout, "")

    def test_a_background_child_delays_the_end(self):
        self.assertEqual(run("(sleep 0.7; echo late) & echo early").stdout, "early\nlate")

    def test_a_working_directory_that_does_not_exist(self):
        with self.assertRaises(CurrentWorkingDirectoryDoesntExistException):
            run("pwd", cwd="/does/not/exist")

    def test_a_process_that_has_ended_takes_no_input(self):
        process = sandbox.process.start("true")
        process.wait()
        with self.assertRaises(ProcessException) as caught:
            process.send_stdin("x")
        self.assertIn(f"error finding process '{process.process_id}'", str(caught.exception))

    def test_an_own_id_attaches_to_what_runs(self):
        first, second = [], []
        one = sandbox.process.start(
            "read line; echo $line", process_id="mine", on_stdout=lambda message: first.append(message.line)
        )
        two = sandbox.process.start(
            "echo never", process_id="mine", on_stdout=lambda message: second.append(message.line)
        )
        two.send_stdin("shared\n")
        one.wait()
        two.wait()
        self.assertEqual((first, second), (["shared"], ["shared"]))


class Environment(unittest.TestCase):
    def test_variables(self):
        output = run("echo $SHARED $BOTH $OWN $PYTHONUNBUFFERED", env_vars={"BOTH": "process", "OWN": "own"})
        self.assertEqual(output.stdout, "sandbox process own 1")

    def test_the_user(self):
        output = run("whoami; echo $HOME $USER; pwd; sudo whoami; python --version; node --version")
        lines = output.stdout.splitlines()
        self.assertEqual(lines[:4], ["user", "/home/user user", "/home/user", "root"])
        self.assertTrue(lines[4].startswith("Python 3") and lines[5].startswith("v"), lines)

    def test_the_profile_is_read(self):
        before = sandbox.filesystem.read("/home/user/.profile")
        sandbox.filesystem.write("/home/user/.profile", before + "export FROM_PROFILE=yes\n")
        self.assertEqual(run("echo $FROM_PROFILE").stdout, "yes")
        sandbox.filesystem.write("/home/user/.profile", before)

    def test_the_working_directory_of_the_sandbox(self):
        sandbox.cwd = "/code"
        try:
            self.assertEqual(run("pwd").stdout, "/code")
            sandbox.filesystem.write("relative.txt", "text")
            self.assertEqual(run("cat /code/relative.txt").stdout, "text")
            sandbox.filesystem.write("../../up.txt", "up")
            self.assertEqual(sandbox.filesystem.read("/up.txt"), "up")
        finally:
            sandbox.cwd = None


class Files(unittest.TestCase):
    def test_directories(self):
        sandbox.filesystem.make_dir("/test/new")
        self.assertEqual([(entry.name, entry.is_dir) for entry in sandbox.filesystem.list("/test")], [("new", True)])
        sandbox.filesystem.write("/test/a.txt", "a")
        self.assertEqual([entry.name for entry in sandbox.filesystem.list("/test")], ["a.txt", "new"])
        sandbox.filesystem.remove("/test/new")
        sandbox.filesystem.remove("/test/a.txt")
        self.assertEqual(sandbox.filesystem.list("/test"), [])

    def test_text_and_bytes(self):
        sandbox.filesystem.write("/home/user/text", "first, longer")
        sandbox.filesystem.write("/home/user/text", "grün\n")
        self.assertEqual(sandbox.filesystem.read("/home/user/text"), "grün\n")
        data = os.urandom(300_000)
        sandbox.filesystem.write_bytes("/home/user/bytes", data)
        self.assertEqual(bytes(sandbox.filesystem.read_bytes("/home/user/bytes")), data)

    def test_what_was_written_belongs_to_the_user_and_runs(self):
        sandbox.filesystem.write("/home/user/script", "#!/bin/sh\necho ran\n")
        self.assertEqual(run("./script && echo more >> script && stat -c %U script").stdout, "ran\nuser")

    def test_failures(self):
        for call, words in (
            (
                lambda: sandbox.filesystem.read("/none"),
                "error reading file '/none': open /none: no such file or directory",
            ),
            (lambda: sandbox.filesystem.read("/etc"), "error reading file '/etc': read /etc: is a directory"),
            (lambda: sandbox.filesystem.list("/none"), "error listing files in '/none': open /none: no such file"),
            (lambda: sandbox.filesystem.list("/etc/passwd"), "not a directory"),
            (
                lambda: sandbox.filesystem.write("/none/file", ""),
                "error writing to file '/none/file': open /none/file: no such file or directory",
            ),
        ):
            with self.assertRaises(FilesystemException) as caught:
                call()
            self.assertIn(words, str(caught.exception))

    def test_watch(self):
        events = []
        sandbox.filesystem.make_dir("/home/user/watched/below")
        watcher = sandbox.filesystem.watch_dir("/home/user/watched/")
        watcher.add_event_listener(events.append)
        watcher.start()
        # The client may miss what happens before it has taken note of its own subscription.
        until(lambda: sandbox.filesystem.write("/home/user/watched/file", "1") or events, "an event")
        run("echo 2 > watched/below/unseen; rm watched/file; mv watched/below watched/moved")
        until(lambda: {"Remove", "Rename"} <= {event.operation for event in events}, events)
        watcher.stop()
        self.assertEqual({event.path.rpartition("/")[0] for event in events}, {"/home/user/watched"})
        self.assertEqual({event.name for event in events}, {"file", "below", "moved"})

    def test_upload_and_download(self):
        data = os.urandom(3_000_000)
        file = io.BytesIO(data)
        file.name = "/somewhere/on my disk.bin"
        self.assertEqual(sandbox.upload_file(file), "/home/user/on my disk.bin")
        self.assertEqual(sandbox.download_file("/home/user/on my disk.bin"), data)
        self.assertEqual(run("stat -c '%U %s' 'on my disk.bin'").stdout, "user 3000000")
        with self.assertRaises(Exception) as caught:
            sandbox.download_file("/none")
        self.assertIn("File not found: open /none: no such file or directory", str(caught.exception))


class Terminals(unittest.TestCase):
    def test_a_shell(self):
        seen, exits = [], []
        terminal = sandbox.terminal.start(
            on_data=seen.append, cols=100, rows=20, cwd="/tmp", on_exit=lambda: exits.append(1)
        )
        terminal.send_data("stty size; pwd; echo $TERM\n")
        until(lambda: "20 100" in "".join(seen) and "xterm" in "".join(seen), seen)
        terminal.resize(cols=120, rows=30)
        terminal.send_data("stty size; exit\n")
        terminal.wait()
        self.assertIn("30 120", "".join(seen))
        self.assertIn("/tmp", "".join(seen))
        until(lambda: exits == [1], "the exit")

    def test_a_command_and_a_kill(self):
        seen = []
        terminal = sandbox.terminal.start(on_data=seen.append, cols=80, rows=24, cmd="echo só; exec sleep 1000")
        until(lambda: "só" in "".join(seen), seen)
        terminal.kill()
        until(lambda: run("pgrep -x sleep").stdout == "", "the end of the command")


class Servers(unittest.TestCase):
    def test_a_server_answers_at_its_hostname(self):
        sandbox.filesystem.write("/home/user/server.py", open(SERVER).read())
        started = threading.Event()
        server = sandbox.process.start(
            "python server.py 8080", on_stdout=lambda message: started.set() if message.line == "ready" else None
        )
        self.assertTrue(started.wait(40))
        hostname = sandbox.get_hostname(8080)
        self.assertEqual(requests.get(f"https://{hostname}/path").text, "you asked for /path")
        with websockets.sync.client.connect(f"wss://{hostname}/") as socket:
            socket.send("hello")
            self.assertEqual(socket.recv(), "hello")
        server.kill()

    def test_ports_are_scanned(self):
        seen = []
        with Sandbox(on_scan_ports=seen.extend) as other:
            other.process.start("python3 -m http.server 8090")
            until(lambda: any(port.port == 8090 and port.state == "LISTEN" for port in seen), "the port in the scan")
            Sandbox.kill(other.id)


if __name__ == "__main__":
    unittest.main()
