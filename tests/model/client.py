"""Operations as a caller does them, through the public ports; what was answered, and when."""

from __future__ import annotations

import base64
import json
import struct
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import httpx
from tests.abuse.front import FrontBox, messages
from tests.model.state import LOST

if TYPE_CHECKING:
    from tests.live import Live

_ROOT = "Basic " + base64.b64encode(b"root:").decode()

ANSWER_SECONDS = 100.0
"""Longer than any answer may take on a loaded machine."""
WRITE = "printf %s {0} > /root/mark.{0} && mv /root/mark.{0} /root/mark"
BEGIN = """
MODEL={0} setsid bash -c 'echo $$ > /dev/shm/pid.{0}; mv /dev/shm/pid.{0} /dev/shm/pid; exec sleep 1000000' > /dev/null 2>&1 < /dev/null &
until read -r pid 2>/dev/null < /dev/shm/pid && [ "$pid" = $! ]; do sleep 0.01; done
"""
"""Those before it stay: whoever reads meanwhile sees one or the other."""
READ = """
disk= memory= pid=none
read -r disk 2>/dev/null < /root/mark; read -r pid 2>/dev/null < /dev/shm/pid
if [ -e /proc/$pid/environ ]; then
  while IFS= read -r -d '' pair; do case $pair in MODEL=*) memory=${pair#MODEL=};; esac; done < /proc/$pid/environ
fi
echo "$HOSTNAME|$GIVEN|$disk|$memory|"
"""


class NoAnswerError(AssertionError):
    """An operation hangs."""


@dataclass(slots=True)
class Answer:
    """`status` 0: the connection broke, and what was asked for may have happened."""

    status: int
    body: Any
    sent: float
    answered: float
    headers: dict[str, str] = field(default_factory=dict)


class Client:
    """One team's. It may be used by several threads, and outlives servers that have fixed ports."""

    def __init__(self, live: Live, key: str) -> None:
        self._live = live
        self.key = key
        limits = httpx.Limits(max_keepalive_connections=0)
        self._api = httpx.Client(headers={"X-API-KEY": key}, trust_env=False, timeout=ANSWER_SECONDS, limits=limits)
        self._edge = httpx.Client(trust_env=False, timeout=ANSWER_SECONDS, limits=limits)

    def close(self) -> None:
        self._api.close()
        self._edge.close()

    def call(self, method: str, path: str, body: object = None, **query: Any) -> Answer:
        """Raises: NoAnswerError."""
        sent = time.time()
        try:
            got = self._api.request(method, f"{self._live.api_url}{path}", json=body, params=query)
        except httpx.TimeoutException as error:
            raise NoAnswerError(f"{method} {path} was not answered within {ANSWER_SECONDS:g} s") from error
        except httpx.TransportError:
            return Answer(LOST, {}, sent, time.time())
        answered = time.time()
        return Answer(got.status_code, got.json() if got.content else {}, sent, answered, dict(got.headers))

    def pages(self, path: str, **query: Any) -> tuple[list[dict[str, Any]], Answer]:
        """All items of a list that comes in pages, and its last answer."""
        items, first = [], time.time()
        while True:
            page = self.call("GET", path, **query)
            if page.status != 200:
                return [], page
            items += page.body
            if (token := page.headers.get("x-next-token")) is None:
                page.sent = first
                return items, page
            query["nextToken"] = token

    def run(self, sandbox_id: str, token: str, command: str) -> Answer:
        """A command as root; its output is in `body`. Raises: NoAnswerError."""
        message = json.dumps({"process": {"cmd": "/bin/bash", "args": ["-c", command]}, "stdin": False}).encode()
        headers = {
            **FrontBox(self._live, sandbox_id, token).headers(),
            "Authorization": _ROOT, "Content-Type": "application/connect+json",
        }  # fmt: skip
        url, content = f"{self._live.edge_url}/process.Process/Start", struct.pack(">BI", 0, len(message)) + message
        sent = time.time()
        try:
            with self._edge.stream("POST", url, content=content, headers=headers) as got:
                if got.status_code != 200:
                    text = got.read().decode(errors="replace")
                    return Answer(got.status_code, {"message": text}, sent, time.time())
                code, output = _result(got)
        except httpx.TimeoutException as error:
            raise NoAnswerError(f"a command in {sandbox_id} did not end within {ANSWER_SECONDS:g} s") from error
        except httpx.TransportError:
            return Answer(LOST, {}, sent, time.time())
        if code != 0:
            raise AssertionError(f"in {sandbox_id}, {command!r} ended with {code}: {output}")
        return Answer(200, {"output": output}, sent, time.time())


def _result(got: httpx.Response) -> tuple[int, str]:
    """Exit code and output. Raises: httpx.TransportError when the stream ends before the command."""
    output = bytearray()
    for message in messages(got):
        if "error" in message:
            raise AssertionError(f"a command was answered {message['error']}")
        event = message.get("event", {})
        for part in event.get("data", {}).values():
            output += base64.b64decode(part)
        if "end" in event:
            return int(event["end"].get("exitCode", 0)), output.decode(errors="replace")
    raise httpx.RemoteProtocolError("the stream ended before the command")
