"""Which kernel of the image serves which language, and its command line.

Only the image's kernels count: the service's own Python must never become one.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING

from jupyter_client.kernelspec import KernelSpec, KernelSpecManager, NoSuchKernel

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

INKERNEL = Path(__file__).parent / "inkernel"
"""Our files that run in the image's kernels, Python's and R's."""

_PREFERRED = {
    "python": ("python3", "python"),
    "javascript": ("javascript", "jslab", "deno"),
    "typescript": ("typescript", "tslab", "deno", "javascript"),
    "r": ("ir", "r"),
    "java": ("java",),
    "bash": ("bash",),
}
_SYSTEM = ("/usr/local/share/jupyter/kernels", "/usr/share/jupyter/kernels")
_PACKAGES = {
    "python": "ipykernel",
    "javascript": "deno, and a kernelspec for `deno jupyter`",
    "typescript": "deno, and a kernelspec for `deno jupyter`",
    "bash": "bash_kernel",
    "r": "Debian's r-cran-irkernel",
    "java": "jjava, and Debian's openjdk-17-jre-headless",
}
"""Where kernels come from: packages of Python's index if nothing else is said."""
_R_MAIN = "IRkernel::main()"
_BARE_PYTHON = re.compile(r"python(3(\.\d+)?)?")
_OPTIONS = (
    "--InteractiveShell.colors=NoColor",
    "--PlainTextFormatter.max_seq_length=0",
    # History goes on working within the context, without a database on disk that every cell waits for.
    "--HistoryManager.hist_file=:memory:",
)


class UnknownLanguageError(Exception):
    """The image has no kernel for this language; the message names those it has."""


class Kernelspecs:
    """The kernels installed in the image."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._path = environ.get("PATH", os.defpath)
        self._manager = KernelSpecManager(
            kernel_dirs=list(_directories(environ)), ensure_native_kernel=False, allowed_kernelspecs=set()
        )

    def find(self, language: str) -> KernelSpec:
        """The kernel for a normalised language or kernelspec name. Raises UnknownLanguageError."""
        installed = self._manager.find_kernel_specs()
        for name in (*_PREFERRED.get(language, ()), language):
            if name in installed:
                return self._manager.get_kernel_spec(name)
        for name in sorted(installed):
            spec = self._readable(name)
            if spec and spec.language.lower() == language:
                return spec
        if language == "python" and (python := self._which("python3")):
            argv = [python, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
            return KernelSpec(argv=argv, language="python", display_name="Python 3")
        names = ", ".join(sorted(installed)) or "none"
        hint = f": {_PACKAGES[language]}" if language in _PACKAGES else ""
        raise UnknownLanguageError(
            f"No kernel for language {language!r} in this sandbox (installed kernels: {names}); "
            f"add one to the template{hint}"
        )

    def command(self, spec: KernelSpec, connection_file: Path) -> list[str]:
        """The command line of a kernel, its program resolved by the image's PATH. Raises FileNotFoundError."""
        values = {
            "connection_file": str(connection_file),
            "resource_dir": spec.resource_dir,
            "prefix": str(Path(spec.resource_dir or "/").parent.parent.parent.parent),
        }
        argv = [re.sub(r"\{(\w+)\}", lambda match: values.get(match[1], match[0]), part) for part in spec.argv]
        argv = [part.replace(_R_MAIN, f'source("{INKERNEL}/irkernel.R")') for part in argv]
        program = argv[0] if "/" in argv[0] else self._which(argv[0])
        if program is None or not Path(program).exists():
            raise FileNotFoundError(f"the kernel's program {argv[0]!r} is not on the sandbox's PATH ({self._path})")
        options = [*_OPTIONS, f"--IPKernelApp.exec_lines={_startup_line()}"] if is_ipython(spec) else []
        return [program, *argv[1:], *options]

    def environment(self, spec: KernelSpec, base: Mapping[str, str]) -> dict[str, str]:
        """`base` with the kernelspec's own variables."""
        own = {key: Template(value).safe_substitute(base) for key, value in (spec.env or {}).items()}
        return {**base, **own}

    def _readable(self, name: str) -> KernelSpec | None:
        try:
            return self._manager.get_kernel_spec(name)
        except (NoSuchKernel, OSError, ValueError):
            return None  # a damaged kernel.json of the image's: as if it was not there

    def _which(self, program: str) -> str | None:
        if not _BARE_PYTHON.fullmatch(program):
            return shutil.which(program, path=self._path)
        # The service's own bin directory may be on the PATH it was started with.
        foreign = [part for part in self._path.split(os.pathsep) if not _is_bundled(Path(part))]
        return shutil.which(program, path=os.pathsep.join(foreign))


def is_ipython(spec: KernelSpec) -> bool:
    """Whether the kernel takes IPython's options: started by ipykernel itself, not by something built on it."""
    return any(part.split(".")[0] in {"ipykernel", "ipykernel_launcher"} for part in spec.argv)


def _is_bundled(directory: Path) -> bool:
    return str(directory).startswith("/.sandpit") and sys.prefix.startswith("/.sandpit")


def _startup_line() -> str:
    startup = str(INKERNEL / "startup.py")
    return f"exec(compile(open({startup!r}).read(), {startup!r}, 'exec'), {{'__file__': {startup!r}}})"


def _directories(environ: Mapping[str, str]) -> Iterable[str]:
    """Where images keep kernelspecs, first match wins; a PATH entry `X/bin` stands for an environment `X`."""
    given = [f"{part}/kernels" for part in environ.get("JUPYTER_PATH", "").split(os.pathsep) if part]
    home = f"{environ.get('HOME', '/root')}/.local/share/jupyter/kernels"
    path = [Path(part) for part in environ.get("PATH", "").split(os.pathsep) if part]
    prefixes = [f"{part.parent}/share/jupyter/kernels" for part in path if part.name == "bin"]
    return dict.fromkeys([*given, home, *prefixes, *_SYSTEM])
