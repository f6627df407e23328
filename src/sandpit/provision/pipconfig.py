"""What this machine's pip is told about package indexes, in uv's words.

uv reads none of pip's configuration, but a machine behind a mirror is configured for pip. Read at run time, not stored.
"""

from __future__ import annotations

import configparser
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_OPTIONS = {
    "index-url": ("UV_DEFAULT_INDEX", " "),
    "extra-index-url": ("UV_INDEX", " "),
    "find-links": ("UV_FIND_LINKS", ","),
    "no-index": ("UV_NO_INDEX", " "),
    "trusted-host": ("UV_INSECURE_HOST", " "),
    "cert": ("SSL_CERT_FILE", " "),
    "client-cert": ("SSL_CLIENT_CERT", " "),
    "proxy": ("ALL_PROXY", " "),
    "timeout": ("UV_HTTP_TIMEOUT", " "),
}


def pip_files(environ: Mapping[str, str]) -> list[Path]:
    """pip's configuration files, the least important first (pip's documentation, "Configuration files")."""
    if environ.get("PIP_CONFIG_FILE") == os.devnull:
        return []
    home = Path(environ.get("HOME", "/root"))
    folders = [Path(p) for p in environ.get("XDG_CONFIG_DIRS", "/etc/xdg").split(":") if p]
    files = [folder / "pip/pip.conf" for folder in folders] + [Path("/etc/pip.conf")]
    files += [home / ".pip/pip.conf", Path(environ.get("XDG_CONFIG_HOME", home / ".config")) / "pip/pip.conf"]
    files.append(Path(sys.prefix) / "pip.conf")
    if named := environ.get("PIP_CONFIG_FILE"):
        files.append(Path(named))
    return files


def uv_environment(environ: Mapping[str, str] = os.environ, files: Iterable[Path] | None = None) -> dict[str, str]:
    """The environment for uv: `environ`, plus pip's settings that uv has not been told otherwise.

    Indexes are searched as pip does (best version of all): locked hashes say what is accepted.
    """
    found: dict[str, str] = {}
    for file in pip_files(environ) if files is None else files:
        found |= _read(file)
    for option in _OPTIONS:
        if value := environ.get(f"PIP_{option.upper().replace('-', '_')}"):
            found[option] = value
    found.setdefault("timeout", environ.get("PIP_DEFAULT_TIMEOUT", ""))
    settings = {"UV_SYSTEM_CERTS": "1", "UV_INDEX_STRATEGY": "unsafe-best-match", "UV_NO_PROGRESS": "1"}
    for option, value in found.items():
        name, separator = _OPTIONS[option]
        if value:
            settings[name] = separator.join(value.split())
    return settings | dict(environ)


def _read(file: Path) -> dict[str, str]:
    parser = configparser.RawConfigParser()
    try:
        parser.read(file, encoding="utf-8")
    except (configparser.Error, UnicodeDecodeError):
        return {}  # pip will complain about it; the locked hashes guard what is installed
    settings: dict[str, str] = {}
    for section in ("global", "install", "download"):
        if parser.has_section(section):
            settings |= {key: value for key, value in parser.items(section) if key in _OPTIONS}
    return settings
