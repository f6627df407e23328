"""`notebook` (2024): cells, and the kernels that run them; `Interpreter` below it speaks with the service (code-interpreter 2)."""

from __future__ import annotations

import builtins
import time
from typing import TYPE_CHECKING, Any

from sandpit.protocol import ports
from sandpit.sdk import errors, signing, wire
from sandpit.sdk._async._concurrency import time_limit
from sandpit.sdk._async.running import tell
from sandpit.sdk.models import EnvVars, Kernel, ProcessMessage
from sandpit.sdk.results import Error, Execution, Result

if TYPE_CHECKING:
    from collections.abc import Callable

    from sandpit.sdk._async.sandbox import AsyncSandbox

    OnMessage = Callable[[ProcessMessage], Any]
    OnResult = Callable[[Result], Any]
    OnError = Callable[[Error], Any]

_NAMES = {"python3": "python"}
"""Jupyter's names of kernels, by which the 2024 SDK asks for them, and the service's."""


class Interpreter:
    """Calls of the interpreter service."""

    def __init__(self, sandbox: AsyncSandbox) -> None:
        self._sandbox = sandbox

    async def execute(
        self, cell: dict[str, Any], callbacks: dict[str, Callable[..., Any] | None], timeout: float | None
    ) -> Execution:
        """Run a cell. `callbacks`: for `stdout`, `stderr`, `result` and `error`. Raises: KernelException, TimeoutException."""
        from sandpit.sdk._async.http import Stream, failure, read

        link, what = self._sandbox.link, "run a cell"
        started = time.monotonic()
        headers = {"Connection": "close"}  # leaving is how a cell is interrupted
        request = link.request("POST", ports.INTERPRETER, "/execute", timeout, headers, json=cell)
        response = await link.http.stream(request, what, timeout)
        request.extensions["timeout"]["read"] = None  # a cell that waits for another one is silent
        stream = Stream(response, wire.JsonLines(), what)
        execution = Execution()
        try:
            left = None if timeout is None else timeout - (time.monotonic() - started)
            async with time_limit(left, response):
                if response.status_code != 200:
                    self._check(response.status_code, await read(response, what))
                while (event := await stream.receive()) is not None:
                    taken = execution.take(event)
                    if taken is not None:
                        await tell(link, callbacks.get(event["type"]), taken)
        except TimeoutError as error:
            raise failure(TimeoutError(), what, timeout, "") from error
        except errors.ServerUnreachableException as error:
            raise await link.why_broken(error) from error
        finally:
            await stream.aclose()
        return execution

    async def contexts(self, timeout: float | None) -> builtins.list[Kernel]:
        return [_kernel(raw) for raw in await self._call("GET", "/contexts", "list kernels", timeout)]

    async def create(self, language: str | None, cwd: str | None, timeout: float | None) -> Kernel:
        body = {"language": language, "cwd": cwd}
        return _kernel(await self._call("POST", "/contexts", "create a kernel", timeout, body))

    async def restart(self, kernel_id: str, timeout: float | None) -> None:
        await self._call(
            "POST", f"/contexts/{signing.path_part(kernel_id)}/restart", f"restart kernel {kernel_id}", timeout
        )

    async def remove(self, kernel_id: str, timeout: float | None) -> None:
        await self._call(
            "DELETE", f"/contexts/{signing.path_part(kernel_id)}", f"shut down kernel {kernel_id}", timeout
        )

    async def _call(self, method: str, path: str, what: str, timeout: float | None, body: Any = None) -> Any:
        link = self._sandbox.link
        request = link.request(method, ports.INTERPRETER, path, timeout, {}, json=body)
        response = await link.http.send(request, what, timeout)
        self._check(response.status_code, response.content)
        return response.json()

    def _check(self, status: int, body: bytes) -> None:
        if status < 300:
            return
        _, message = wire.answer_code(status, body)
        if status == 502 and "port is not open" in message:
            raise errors.KernelException(
                f"no code interpreter runs in sandbox {self._sandbox.id}",
                "create it with CodeInterpreter, or from a template that has one",
            )
        if status == 502:
            raise self._sandbox.link.gone(message)
        raise errors.KernelException(message)


class AsyncNotebook:
    """Runs cells. Variables live in the kernel: what one cell sets, the next one finds."""

    def __init__(self, sandbox: AsyncSandbox) -> None:
        self._sandbox = sandbox
        self._interpreter = Interpreter(sandbox)

    async def exec_cell(
        self,
        code: str,
        kernel_id: str | None = None,
        on_stdout: OnMessage | None = None,
        on_stderr: OnMessage | None = None,
        on_result: OnResult | None = None,
        timeout: float | None = 60,
    ) -> Execution:
        """Run code in a kernel, by default the first Python one, and wait for its end.

        `on_stdout`, `on_stderr`, `on_result`: called with each piece of output and each result as it comes. An exception in the
        code is no exception here: see `Execution.error`. `timeout`: seconds; at its end the cell is interrupted.
        Raises: KernelException: there is no such kernel; TimeoutException; SandboxException.
        """
        cell = {"code": code, "context_id": kernel_id, "language": None, "env_vars": self._sandbox.cell_env(None)}
        callbacks = {"stdout": on_stdout, "stderr": on_stderr, "result": on_result}
        return await self._interpreter.execute(cell, callbacks, timeout)

    async def create_kernel(
        self, cwd: str = wire.HOME, kernel_name: str | None = None, timeout: float | None = 60
    ) -> Kernel:
        """Start a kernel with variables of its own; returns its id.

        `kernel_name`: `python3` (the default), `javascript`, `r`, `bash` and so on, as far as the template has them.
        Raises: KernelException, TimeoutException.
        """
        name = kernel_name or "python3"
        return await self._interpreter.create(_NAMES.get(name, name), cwd, timeout)

    async def list_kernels(self, timeout: float | None = 60) -> builtins.list[Kernel]:
        """The ids of all kernels, oldest first; each also has `language`, `name` and `cwd`."""
        return await self._interpreter.contexts(timeout)

    async def restart_kernel(self, kernel_id: str | None = None, timeout: float | None = 60) -> None:
        """Restart a kernel, by default the first Python one: its variables are gone. Raises: KernelException."""
        await self._interpreter.restart(kernel_id or await self.default_kernel_id(timeout), timeout)

    async def shutdown_kernel(self, kernel_id: str | None = None, timeout: float | None = 60) -> None:
        """End a kernel, by default the first Python one. Raises: KernelException."""
        await self._interpreter.remove(kernel_id or await self.default_kernel_id(timeout), timeout)

    async def default_kernel_id(self, timeout: float | None = 60) -> Kernel:
        """The id of the kernel that cells run in unless another one is named. Raises: KernelException: it was shut down."""
        for kernel in await self.list_kernels(timeout):
            if kernel.language == "python":
                return kernel
        raise errors.KernelException("there is no Python kernel", "notebook.create_kernel() starts one")

    async def run(
        self, code: str, language: str | None, context: str | None, callbacks: dict[str, Any],
        envs: EnvVars | None, timeout: float | None,
    ) -> Execution:  # fmt: skip
        """What `run_code` does."""
        cell = {"code": code, "context_id": context, "language": language, "env_vars": self._sandbox.cell_env(envs)}
        return await self._interpreter.execute(cell, callbacks, timeout)


def _kernel(raw: dict[str, Any]) -> Kernel:
    return Kernel(raw["id"], raw.get("language", ""), raw.get("cwd", ""))
