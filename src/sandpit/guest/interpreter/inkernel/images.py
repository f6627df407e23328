"""PIL: `show()` and `save(path)` display the picture, although there is no screen."""

import importlib
import sys
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import PathFinder
from typing import Any


def install() -> None:
    """Prepare PIL now if it is there, otherwise when the user imports it."""
    if "PIL.Image" in sys.modules:
        prepare(sys.modules["PIL.Image"])
    else:
        sys.meta_path.insert(0, _OnImport())


class _OnImport(MetaPathFinder):
    """Waits for the import of PIL.Image."""

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> Any:
        if fullname != "PIL.Image":
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _Preparing(spec.loader)
        return spec


class _Preparing(Loader):
    """The real loader, and then `prepare`."""

    def __init__(self, loader: Any) -> None:
        self._loader = loader

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def create_module(self, spec: Any) -> Any:
        return self._loader.create_module(spec)

    def exec_module(self, module: Any) -> None:
        module.__loader__ = module.__spec__.loader = self._loader
        self._loader.exec_module(module)
        prepare(module)


def prepare(module: Any) -> None:
    """Change the Image class of the module `PIL.Image`."""
    save = module.Image.save

    def save_and_display(self: Any, fp: Any, *args: Any, **kwargs: Any) -> None:
        save(self, fp, *args, **kwargs)
        if isinstance(fp, str):
            _display(self)

    def show(self: Any, *_args: Any, **_kwargs: Any) -> None:
        _display(self)

    save_and_display.__doc__ = save.__doc__
    module.Image.save, module.Image.show = save_and_display, show


def _display(image: Any) -> None:
    importlib.import_module("IPython.display").display(image)
