"""Run by every IPython kernel as it starts, in a namespace of its own (the user's stays empty)."""

import importlib
import importlib.util
import os
import sys


def _load_package() -> None:
    # Under a name of its own and without a path entry: nothing of ours can shadow a module of the user's.
    folder = os.path.dirname(__file__)  # noqa: PTH120 - no import that is not needed
    init = os.path.join(folder, "__init__.py")  # noqa: PTH118
    spec = importlib.util.spec_from_file_location("sandpit_kernel", init, submodule_search_locations=[folder])
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["sandpit_kernel"] = module
    spec.loader.exec_module(module)


def _install() -> None:
    _load_package()
    shell = get_ipython()  # type: ignore[name-defined]  # noqa: F821 - a builtin of the kernel
    process, streams, formatters, images = (
        importlib.import_module(f"sandpit_kernel.{name}") for name in ("process", "streams", "formatters", "images")
    )
    process.end_with_the_service()
    streams.install(shell.kernel)
    formatters.install(shell)
    images.install()


_install()
