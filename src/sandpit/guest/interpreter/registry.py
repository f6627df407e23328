"""All contexts of the sandbox, and which one a cell belongs to."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections import defaultdict
from typing import TYPE_CHECKING

from sandpit.guest.interpreter.connection import zmq_context
from sandpit.guest.interpreter.contexts import Context, is_directory
from sandpit.guest.interpreter.environment import InstanceFile, base_environment
from sandpit.guest.interpreter.kernel import Kernel, KernelStartError
from sandpit.guest.interpreter.kernelspecs import Kernelspecs, UnknownLanguageError
from sandpit.guest.interpreter.languages import normalise, traits

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from jupyter_client.kernelspec import KernelSpec

    from sandpit.guest.interpreter.settings import Settings

_LOG = logging.getLogger(__name__)


class UnknownContextError(Exception):
    """There is no context with this id."""


class ContextCreationError(Exception):
    """A context could not be made; the message is for the client."""


class InvalidDirectoryError(Exception):
    """The wanted working directory is none; the message is for the client."""


class Registry:
    """The contexts in order of creation. Use `running()` as its life time."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._base = base_environment()
        self._specs = Kernelspecs(self._base)
        self._instance = InstanceFile(settings.instance_file)
        self._zmq = zmq_context()
        self._contexts: dict[str, Context] = {}
        self._defaults: dict[str, str] = {}
        self._creating: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Registry]:
        """Make the default contexts (Python and, where there is a kernel for it, JavaScript); end all kernels later.

        JavaScript's kernel starts with its first cell: it takes a second then, instead of 100 MB in every sandbox.
        Raises ContextCreationError if there is no Python.
        """
        self._settings.runtime_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            python = await self.default("python")
            await self._warm_up(python)
            try:
                self._defaults["javascript"] = self.add("javascript", self._settings.default_cwd).id
            except ContextCreationError as problem:
                _LOG.info("starting without JavaScript: %s", problem)
            yield self
        finally:
            for context in list(self._contexts.values()):
                await context.close()
            self._zmq.destroy(linger=0)

    def contexts(self) -> list[Context]:
        """All contexts, oldest first."""
        return list(self._contexts.values())

    def get(self, context_id: str) -> Context:
        """The context with this id. Raises UnknownContextError."""
        try:
            return self._contexts[context_id]
        except KeyError:
            raise UnknownContextError(f"Context {context_id} not found") from None

    async def default(self, language: str) -> Context:
        """The default context of a language, made on first use. Raises ContextCreationError."""
        name = normalise(language)
        async with self._creating[name]:
            if context := self._contexts.get(self._defaults.get(name, "")):
                return context
            context = await self._create(name, self._settings.default_cwd)
            self._defaults[name] = context.id
            return context

    async def create(self, language: str | None, cwd: str | None) -> Context:
        """A new context. Raises ContextCreationError, InvalidDirectoryError."""
        name = normalise(language or "python")
        if cwd and traits(name).needs_directory and not is_directory(cwd):
            raise InvalidDirectoryError(
                f"Failed to set working directory: {cwd} is not a directory in the sandbox; create it or choose another"
            )
        return await self._create(name, cwd or self._settings.default_cwd)

    async def remove(self, context_id: str) -> None:
        """End a context. Raises UnknownContextError."""
        context = self.get(context_id)
        del self._contexts[context_id]
        await context.close()

    def add(self, language: str, cwd: str) -> Context:
        """A context whose kernel starts with its first cell; `language` may name a kernelspec. Raises ContextCreationError."""
        try:
            spec = self._specs.find(language)
        except UnknownLanguageError as problem:
            raise ContextCreationError(f"Failed to create context: {problem}") from problem
        context = Context(language, cwd, spec, self._kernel, self._instance, self._base, self._settings.default_cwd)
        self._contexts[context.id] = context
        return context

    async def _create(self, language: str, cwd: str) -> Context:
        context = self.add(language, cwd)  # listed in the order of the requests, not of the kernels' starts
        try:
            await context.start()
        except KernelStartError as problem:
            raise ContextCreationError(f"Failed to create context: {problem}") from problem
        finally:
            if not context.started:
                self._contexts.pop(context.id, None)
                await context.close()
        return context

    def _kernel(self, spec: KernelSpec) -> Kernel:
        return Kernel(
            self._specs,
            spec,
            runtime_dir=self._settings.runtime_dir,
            context=self._zmq,
            transport=self._settings.transport,
        )

    async def _warm_up(self, context: Context) -> None:
        if context.is_ipython:
            names = json.dumps(list(self._settings.preload))
            await context.warm_up(f"__import__('sandpit_kernel.warmup').warmup.run({names})")
