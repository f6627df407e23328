"""A real S3 server (SeaweedFS) somewhere else on the internet: it checks signatures, takes large files in parts, and keeps them on disk."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import urllib3
from minio import Minio
from minio.error import MinioException
from tests import leaks
from tests.elsewhere import Elsewhere

if TYPE_CHECKING:
    from collections.abc import Iterator

_PORT = 8333
_PATIENCE = 40.0


class S3Server:
    """The server with one bucket; `client` is somebody outside who uses it. To be entered."""

    bucket = "mine"

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._log = folder / "log"
        self._address = f"203.0.113.{100 + os.getpid() % 100}"
        """A documentation address (RFC 5737): public as far as the rules know, and nobody has it."""
        self.url = f"http://{self._address}:{_PORT}"
        self.key, self.secret = secrets.token_hex(10), secrets.token_hex(20)
        self._http = urllib3.PoolManager(retries=False, timeout=urllib3.Timeout(20))
        self.client = Minio(
            f"{self._address}:{_PORT}", self.key, self.secret, secure=False, region="us-east-1", http_client=self._http
        )
        self._stack = ExitStack()

    def __enter__(self) -> S3Server:
        with ExitStack() as stack:
            elsewhere = stack.enter_context(Elsewhere("192.0.2.78", [self._address]))
            log = stack.enter_context(self._log.open("wb"))
            self._process = subprocess.Popen(
                ["ip", "netns", "exec", elsewhere.name, *self._command()],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self._folder,
            )  # fmt: skip
            leaks.kept_processes.add(self._process.pid)
            stack.callback(self._end)
            self._until_up()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _end(self) -> None:
        self._process.kill()
        self._process.wait()
        leaks.kept_processes.discard(self._process.pid)

    def _command(self) -> list[str]:
        data, users = self._folder / "data", self._folder / "s3.json"
        data.mkdir()
        credentials = [{"accessKey": self.key, "secretKey": self.secret}]
        users.write_text(json.dumps({"identities": [{"name": "me", "actions": ["Admin"], "credentials": credentials}]}))
        options: dict[str, Any] = {
            "dir": data,
            "ip": self._address,
            "ip.bind": "0.0.0.0",
            "master.telemetry": "false",
            "master.volumeSizeLimitMB": 64,
            "volume.max": 20,
            "filer.localSocket": self._folder / "filer.sock",
            "s3": "true",
            "s3.port": _PORT,
            "s3.config": users,
            "s3.localSocket": self._folder / "s3.sock",
            "s3.port.iceberg": 0,
            "s3.port.lance": 0,
        }
        weed = Path(sys.executable).with_name("weed")
        return [str(weed), "server", *(f"-{name}={value}" for name, value in options.items())]

    def _until_up(self) -> None:
        """Make the bucket; the server's parts find each other within seconds."""
        deadline = time.monotonic() + _PATIENCE
        while True:
            try:
                self.client.make_bucket(self.bucket)
            except (MinioException, urllib3.exceptions.HTTPError) as error:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"no S3 server: {error!r}\n{self._log.read_text()[-3000:]}") from error
                time.sleep(0.1)
            else:
                self._http.clear()
                return

    def names(self, prefix: str = "") -> list[str]:
        """What is in the bucket, directories left out."""
        with self._connection():
            found = self.client.list_objects(self.bucket, prefix, recursive=True)
            return sorted(one.object_name for one in found if one.object_name and not one.object_name.endswith("/"))

    def content(self, name: str) -> bytes | None:
        """The content of an object; None if there is none."""
        with self._connection():
            try:
                answer = self.client.get_object(self.bucket, name)
            except MinioException:
                return None
            try:
                return answer.read()
            finally:
                answer.close()

    def put(self, name: str, content: bytes) -> None:
        with self._connection():
            self.client.put_object(self.bucket, name, BytesIO(content), len(content))

    @contextmanager
    def _connection(self) -> Iterator[None]:
        """None is kept: a test leaves no descriptors behind."""
        yield
        self._http.clear()
