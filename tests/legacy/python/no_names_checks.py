"""Where no name below localhost resolves: the sandbox's name goes into the user part of the URL."""

from __future__ import annotations

import io
import unittest

from e2b import Sandbox


class NoNames(unittest.TestCase):
    def test_the_name_travels_in_the_user_part(self):
        with Sandbox() as sandbox:
            self.assertEqual(sandbox.process.start_and_wait("echo hi").stdout, "hi")
            file = io.BytesIO(b"content")
            file.name = "file"
            self.assertEqual(sandbox.download_file(sandbox.upload_file(file)), b"content")
            Sandbox.kill(sandbox.id)


if __name__ == "__main__":
    unittest.main()
