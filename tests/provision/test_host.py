"""What is taken from this machine: pip's settings, apt's mirrors, its runsc."""

from __future__ import annotations

import json
import os
import shutil
from typing import TYPE_CHECKING

import pytest

from sandpit.provision import hosttools
from sandpit.provision.debian import MIRROR_VARIABLE, Archives, DebianError, machine_archives, run
from sandpit.provision.hosttools import provide_runsc, runsc_version
from sandpit.provision.pipconfig import uv_environment
from sandpit.provision.wheels import requirements_dir

if TYPE_CHECKING:
    from pathlib import Path


def test_pip_settings_reach_uv(tmp_path: Path) -> None:
    general, own = tmp_path / "a.conf", tmp_path / "b.conf"
    general.write_text(
        "[global]\nindex-url = https://one.invalid/simple\ncert = /ca.pem\n[install]\nfind-links = /w1\n  /w2\n"
    )
    own.write_text("[global]\nindex-url = https://two.invalid/simple\nextra-index-url = file:///a\n  file:///b\n")
    settings = uv_environment({"PIP_TRUSTED_HOST": "two.invalid"}, [general, own, tmp_path / "missing"])
    assert settings["UV_DEFAULT_INDEX"] == "https://two.invalid/simple"
    assert settings["UV_INDEX"] == "file:///a file:///b"
    assert settings["UV_FIND_LINKS"] == "/w1,/w2"
    assert settings["SSL_CERT_FILE"] == "/ca.pem"
    assert settings["UV_INSECURE_HOST"] == "two.invalid"


def test_uv_settings_win_over_pip_and_the_environment_over_files(tmp_path: Path) -> None:
    file = tmp_path / "pip.conf"
    file.write_text("[global]\nindex-url = https://file.invalid\n")
    assert uv_environment({"PIP_INDEX_URL": "https://env.invalid"}, [file])["UV_DEFAULT_INDEX"] == "https://env.invalid"
    environment = {"PIP_INDEX_URL": "https://env.invalid", "UV_DEFAULT_INDEX": "https://uv.invalid"}
    assert uv_environment(environment, [file])["UV_DEFAULT_INDEX"] == "https://uv.invalid"


def test_a_broken_pip_file_is_no_obstacle(tmp_path: Path) -> None:
    file = tmp_path / "pip.conf"
    file.write_bytes(b"\xff\xfe no section")
    assert "UV_DEFAULT_INDEX" not in uv_environment({}, [file])


def test_lock_files_have_hashes_and_no_addresses() -> None:
    locks = list(requirements_dir().glob("*.lock"))
    names = {"server", "guest", "dev", "examples", "base-image", "interpreter-image", "legacy-clients"}
    assert {lock.stem for lock in locks} == names
    for lock in locks:
        text = lock.read_text()
        assert "://" not in text
        assert text.count("==") <= text.count("--hash=sha256:")


def test_mirror_variable_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(MIRROR_VARIABLE, "http://mirror.invalid/debian")
    assert machine_archives() == Archives(("http://mirror.invalid/debian",))


def test_sources_of_a_release() -> None:
    archives = Archives(("http://a.invalid/d", "https://b.invalid/d"), ("http://s.invalid/s",), updates=True)
    assert archives.sources("trixie", 1) == [
        "deb https://b.invalid/d trixie main",
        "deb https://b.invalid/d trixie-updates main",
        "deb http://s.invalid/s trixie-security main",
    ]


def test_failing_programs_say_their_last_words() -> None:
    with pytest.raises(DebianError, match=r"doing it failed \(sh exited with 3\):\nlast words"):
        run(["sh", "-c", "echo last words >&2; exit 3"], "doing it")
    with pytest.raises(DebianError, match="needs the program no-such-program"):
        run(["no-such-program"], "doing it")


@pytest.fixture
def vendor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in for an installed release: only its version is asked for here."""
    binary = tmp_path / "path/runsc"
    binary.parent.mkdir()
    binary.write_text('#!/bin/sh\necho "runsc version release-20250820.0"\n')
    binary.chmod(0o755)
    monkeypatch.setenv("PATH", f"{binary.parent}:{os.environ['PATH']}")
    return binary


def test_the_vendors_release_is_copied_and_kept(vendor: Path, tmp_path: Path) -> None:
    runsc = provide_runsc(tmp_path, lambda _: None)
    about = json.loads((tmp_path / "bin/runsc.json").read_text())
    assert about["version"] == runsc_version(runsc) == "runsc version release-20250820.0"
    assert len(about["sha256"]) == 64
    vendor.write_text("#!/bin/sh\necho other\n")  # an upgrade on PATH must not orphan the snapshots
    assert provide_runsc(tmp_path, lambda _: None) == runsc
    assert runsc_version(runsc) == about["version"]


def test_a_changed_copy_is_replaced(vendor: Path, tmp_path: Path) -> None:
    runsc = provide_runsc(tmp_path, lambda _: None)
    runsc.write_text("#!/bin/sh\nexit 1\n")
    assert runsc_version(provide_runsc(tmp_path, lambda _: None)) == "runsc version release-20250820.0"
    assert vendor.exists()


def test_what_does_not_run_has_no_version(tmp_path: Path) -> None:
    shutil.copyfile("/etc/passwd", tmp_path / "runsc")
    assert runsc_version(tmp_path / "runsc") is None
    assert runsc_version(tmp_path / "missing") is None


def test_missing_programs_are_named_by_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(hosttools, "_SYSTEM_PATH", str(tmp_path))
    assert {"crun", "nftables", "mmdebstrap", "iproute2"} <= set(hosttools.missing_packages())


def test_an_installation_that_was_interrupted_is_completed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """dpkg's own state is the machine's: programs of the same names stand for apt-get, which refuses as it does, and for dpkg."""
    (tmp_path / "interrupted").touch()
    scripts = {
        "apt-get": 'case "$*" in *update*) exit 0;; esac; '
        f'[ -e {tmp_path}/interrupted ] && {{ echo "E: dpkg was interrupted, you must manually run" >&2; exit 100; }}; '
        f'echo "$*" >> {tmp_path}/installed',
        "dpkg": f'[ "$*" = "--configure -a" ] && rm {tmp_path}/interrupted',
    }
    for name, script in scripts.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    said: list[str] = []
    assert hosttools._install(["crun"], said.append) == ["crun"]
    assert (tmp_path / "installed").read_text().split()[-1] == "crun"
    assert any("broken off" in line for line in said)
