"""The agents in sandboxes, over the edge, as far as the commands need them (current-protocol 4, 5)."""

from __future__ import annotations

import json
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import httpx

from sandpit.cli.accounts import account as accounts
from sandpit.cli.accounts.account import Account
from sandpit.cli.client import USER_AGENT, Json, unreachable
from sandpit.cli.errors import CliError
from sandpit.protocol import ports
from sandpit.sdk.wire import Envelopes, base64_text, envelope

_LOST = ("the sandbox has ended, or the connection to it was lost", "`sandpit sandbox logs` tells what happened")


class AgentError(CliError):
    """What an agent refuses, or why a stream ended; `kind` is Connect's code, for instance `not_found`."""

    def __init__(self, message: str, kind: str) -> None:
        super().__init__(message)
        self.kind = kind


class Agent:
    """The agent in one sandbox. Use it as an async context manager."""

    def __init__(self, account: Account, sandbox: Json, user: str | None = None) -> None:
        """`sandbox` is the answer of create or connect."""
        name = sandbox["sandboxID"]
        base = account.sandbox_url or f"https://{ports.AGENT}-{name}.{_domain(sandbox)}"
        headers = {
            "E2b-Sandbox-Id": name,
            "E2b-Sandbox-Port": str(ports.AGENT),
            "Connect-Protocol-Version": "1",
            "User-Agent": USER_AGENT,
        }
        if token := sandbox.get("envdAccessToken"):
            headers["X-Access-Token"] = token
        if user:
            headers["Authorization"] = "Basic " + base64_text(f"{user}:")
        self.base = base
        self._one_address = account.sandbox_url is not None
        # All certificates of the machine take a tenth of a second to load.
        verify = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT) if base.startswith("http://") else True
        # A proxy of the environment is for the internet, not for a server that somebody runs beside him.
        self._http = httpx.AsyncClient(
            base_url=base, headers=headers, timeout=httpx.Timeout(60, connect=10), trust_env=False, verify=verify
        )

    async def __aenter__(self) -> Agent:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    async def call(self, method: str, message: Json) -> Json:
        """A unary call of the process service. Raises: CliError."""
        with _told(self.base):
            answer = await self._http.post(f"/process.Process/{method}", json=message)
        if answer.status_code != 200:
            raise _agent_refused(answer.content)
        result: Json = answer.json()
        return result

    async def files(self, method: str, path: str, content: bytes | None = None) -> bytes:
        """GET or POST a file's whole content. Raises: CliError."""
        headers = {"Content-Type": "application/octet-stream"} if content is not None else {}
        with _told(self.base):
            answer = await self._http.request(method, "/files", params={"path": path}, content=content, headers=headers)
        if answer.status_code != 200:
            raise _agent_refused(answer.content)
        return answer.content

    async def run_code(self, code: str, language: str | None) -> list[Json]:
        """The events of a cell that the sandbox's interpreter runs (code-interpreter 2.4). Raises: CliError."""
        body = {"code": code, "language": language, "context_id": None, "env_vars": None}
        headers = {"E2b-Sandbox-Port": str(ports.INTERPRETER)}
        url = self.base if self._one_address else self.base.replace(f"//{ports.AGENT}-", f"//{ports.INTERPRETER}-", 1)
        with _told(url):
            answer = await self._http.post(
                f"{url}/execute", json=body, headers=headers, timeout=httpx.Timeout(None, connect=10)
            )
        if answer.status_code != 200:
            raise CliError(f"the interpreter answered: {answer.text[:500]}", "is it a code-interpreter template?")
        return [json.loads(line) for line in answer.content.split(b"\n") if line]

    @asynccontextmanager
    async def start(self, message: Json, *, seconds: float | None = None) -> AsyncIterator[AsyncIterator[Json]]:
        """The events of a new process. It goes on when the block is left, but not for longer than `seconds`.

        Raises: CliError, in the block too.
        """
        headers = {"Content-Type": "application/connect+json"}
        if seconds is not None:
            headers["Connect-Timeout-Ms"] = str(int(seconds * 1000))
        timeout = httpx.Timeout(None, connect=10)
        with _told(self.base):
            async with self._http.stream(
                "POST", "/process.Process/Start", content=envelope(message), headers=headers, timeout=timeout
            ) as answer:
                if answer.status_code != 200:
                    raise _agent_refused(await answer.aread())
                yield _events(answer)


async def _events(answer: httpx.Response) -> AsyncIterator[Json]:
    stream = Envelopes()
    async for chunk in answer.aiter_raw():
        for message in stream.feed(chunk):
            yield message["event"]
        if stream.end is not None:
            if "error" in stream.end:
                raise _agent_error(stream.end["error"])
            return
    raise CliError(*_LOST)


def _domain(sandbox: Json) -> str:
    domain = sandbox.get("domain") or accounts.setting("DOMAIN")
    if not domain:
        raise CliError(
            "no address is known for what runs inside sandboxes", "set E2B_SANDBOX_URL, or log in with --sandbox-url"
        )
    return str(domain)


@contextmanager
def _told(url: str) -> Iterator[None]:
    try:
        yield
    except httpx.ConnectError as error:
        raise unreachable(url, error, timed_out=False) from None
    except httpx.TimeoutException as error:
        raise unreachable(url, error, timed_out=True) from None
    except httpx.HTTPError:
        raise CliError(*_LOST) from None


def _agent_refused(body: bytes) -> CliError:
    try:
        return _agent_error(json.loads(body))
    except (ValueError, TypeError, AttributeError):
        return CliError(f"the sandbox answered: {body.decode(errors='replace')[:200]}")


def _agent_error(error: Json) -> AgentError:
    return AgentError(str(error.get("message") or error.get("code") or "the sandbox refused"), str(error.get("code")))
