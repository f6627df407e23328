"""Sandboxes as a whole: e2b 0.17.1."""

from __future__ import annotations

import time
import unittest

from e2b import Sandbox, SandboxException
from e2b.api.v2.client.exceptions import NotFoundException, ServiceException, UnauthorizedException
from support import ids, until


def setUpModule():
    global began, left, kept, connected
    left, kept, connected = Sandbox(), Sandbox(), Sandbox()
    began = time.monotonic()
    kept.filesystem.write("/home/user/file", "kept")
    kept.keep_alive(120)
    for sandbox in (left, kept):
        sandbox.close()


class Lifecycle(unittest.TestCase):
    def test_metadata_and_the_list(self):
        sandboxes = [Sandbox(metadata={"n": str(number), "of": "python"}) for number in range(2)]
        try:
            listed = ids(Sandbox)
            for number, sandbox in enumerate(sandboxes):
                item = listed[sandbox.id]
                self.assertEqual(item.metadata, {"n": str(number), "of": "python"})
                self.assertEqual((item.alias, item.cpu_count, item.memory_mb), ("base", 2, 512))
        finally:
            for sandbox in sandboxes:
                Sandbox.kill(sandbox.id)
        self.assertFalse(ids(Sandbox).keys() & {sandbox.id for sandbox in sandboxes})
        for sandbox in sandboxes:  # raises nothing, though they are gone
            sandbox.close()

    def test_it_dies_with_its_client_unless_it_is_kept_alive(self):
        until(lambda: left.id not in ids(Sandbox), "the end of the one that was left")
        self.assertIn(kept.id, ids(Sandbox))
        with Sandbox.reconnect(kept.id) as again:
            self.assertEqual(again.filesystem.read("/home/user/file"), "kept")
            self.assertEqual(again.id, kept.id)
        Sandbox.kill(kept.id)

    def test_the_last_a_connected_client_keeps_it_alive(self):
        """Last of all, by its name: nothing but time can tell. 15 s is what a sandbox has from its last refresh."""
        time.sleep(max(0, began + 20 - time.monotonic()))
        self.assertEqual(connected.process.start_and_wait("echo alive").stdout, "alive")
        Sandbox.kill(connected.id)
        until(lambda: not connected.is_open, "the client's note of the end")

    def test_keep_alive_has_bounds(self):
        with Sandbox() as sandbox:
            for seconds in (-1, 3601):
                with self.assertRaises(ValueError):
                    sandbox.keep_alive(seconds)
            Sandbox.kill(sandbox.id)
            with self.assertRaises(SandboxException):
                sandbox.keep_alive(10)

    def test_what_does_not_exist(self):
        with self.assertRaises(ServiceException):
            Sandbox("no-such-template")
        with self.assertRaises(NotFoundException):
            Sandbox.kill("i00000000000000000000-00000000")
        with self.assertRaises(SandboxException):
            Sandbox.reconnect("i00000000000000000000-00000000", timeout=20)
        with self.assertRaises(UnauthorizedException):
            Sandbox(api_key="e2b_" + "0" * 40)


if __name__ == "__main__":
    unittest.main()
