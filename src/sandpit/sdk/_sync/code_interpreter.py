# Generated from _async/code_interpreter.py by scripts/make_sync: change that one.
"""The code interpreter: a sandbox with a notebook."""

from __future__ import annotations

import builtins
from typing import TYPE_CHECKING, Any

from sandpit.sdk._sync.notebook import Notebook
from sandpit.sdk._sync.sandbox import Sandbox
from sandpit.sdk.models import EnvVars, Kernel

if TYPE_CHECKING:
    import logging
    from collections.abc import Mapping

    from sandpit.sdk._sync.link import Identity
    from sandpit.sdk._sync.notebook import OnError, OnMessage, OnResult
    from sandpit.sdk._sync.opened import OnPorts
    from sandpit.sdk._sync.process import OnExit, OnOutput
    from sandpit.sdk.results import Execution


class CodeInterpreter(Sandbox):
    """A sandbox that runs cells of code, as a notebook does.

    with CodeInterpreter() as sandbox:
        sandbox.notebook.exec_cell("x = 1")
        execution = sandbox.notebook.exec_cell("x += 1; x")
        print(execution.text)  # 2
    """

    template = "code-interpreter-v1"
    """The template unless another one is named."""

    def __init__(
        self,
        template: str | None = None,
        api_key: str | None = None,
        cwd: str | None = None,
        env_vars: EnvVars | None = None,
        timeout: float | None = 60,
        on_stdout: OnOutput | None = None,
        on_stderr: OnOutput | None = None,
        on_exit: OnExit | None = None,
        *,
        on_scan_ports: OnPorts | None = None,
        metadata: dict[str, str] | None = None,
        domain: str | None = None,
        logger: logging.Logger | None = None,
        allow_internet_access: bool | None = None,
        network: Mapping[str, Any] | None = None,
        _source: str | Identity | None = None,
    ) -> None:
        """Create a sandbox with a code interpreter. Arguments and errors as `Sandbox`'s; the order is that of 2024."""
        self._notebook = Notebook(self)
        super().__init__(
            template or self.template, None, api_key, cwd, env_vars, on_scan_ports, on_stdout, on_stderr, on_exit, metadata,
            timeout, domain, logger=logger, allow_internet_access=allow_internet_access, network=network, _source=_source,
        )  # fmt: skip

    @property
    def notebook(self) -> Notebook:
        """Cells and kernels."""
        return self._notebook

    def run_code(
        self, code: str, language: str | None = None, context: str | None = None, on_stdout: OnMessage | None = None,
        on_stderr: OnMessage | None = None, on_result: OnResult | None = None, on_error: OnError | None = None,
        envs: EnvVars | None = None, timeout: float | None = 60,
    ) -> Execution:  # fmt: skip
        """Run a cell (current name), in the default context of a language or in a context that was created.

        `language`: `python` (the default), `javascript`, `r` and so on. `context`: its id, or what `create_code_context`
        returned. `envs`: for this cell only. Callbacks, `timeout` and errors as `notebook.exec_cell`.
        """
        callbacks = {"stdout": on_stdout, "stderr": on_stderr, "result": on_result, "error": on_error}
        return self._notebook.run(code, language, context, callbacks, envs, timeout)

    def create_code_context(
        self, cwd: str | None = None, language: str | None = None, timeout: float | None = 60
    ) -> Kernel:
        """The current name of `notebook.create_kernel`. `language`: else Python."""
        return self._notebook.create_kernel(cwd or "/home/user", language, timeout)

    def list_code_contexts(self, timeout: float | None = 60) -> builtins.list[Kernel]:
        """The current name of `notebook.list_kernels`."""
        return self._notebook.list_kernels(timeout)

    def restart_code_context(self, context: str, timeout: float | None = 60) -> None:
        """The current name of `notebook.restart_kernel`."""
        self._notebook.restart_kernel(context, timeout)

    def remove_code_context(self, context: str, timeout: float | None = 60) -> None:
        """The current name of `notebook.shutdown_kernel`."""
        self._notebook.shutdown_kernel(context, timeout)
