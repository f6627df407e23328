"""A PostgreSQL server from Debian's packages, writing while its sandbox is paused, again and again."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest
from tests.machines import cache_dir
from tests.node.test_snapshots import kept

from sandpit.provision.base import RELEASE
from sandpit.provision.debian import PackageCache

if TYPE_CHECKING:
    from pathlib import Path

    from tests.machines import Box
    from tests.node.test_snapshots import Kept

__all__ = ["kept"]

_PACKAGES = ["postgresql-15", "postgresql-client-15", "libpq5", "libicu72", "libxml2", "libldap-2.5-0", "libsasl2-2"]
_BIN = "/usr/lib/postgresql/15/bin"
_PSQL = f"{_BIN}/psql -qAth /tmp postgres"
# Again if it failed: in gVisor of July 2024 a program that is just starting when it is paused may die of SIGSEGV when it goes on
# (docs/snapshots.md). What is tested is the server.
START = f"""
tar -xf /tmp/postgresql.tar -C / && rm /tmp/postgresql.tar && mkdir /db && chown user /db
cat > /tmp/start.sh <<'END'
set -e
{_BIN}/initdb -D /db/data -E UTF8 --no-locale --no-sync > /dev/null
printf '%s\\n' 'jit = off' 'shared_buffers = 16MB' 'max_wal_size = 64MB' >> /db/data/postgresql.conf
{_BIN}/pg_ctl -D /db/data -o '-k /tmp' -l /db/log -w start > /dev/null
{_PSQL} -c 'create table kept (n int primary key, digest text)'
END
cat > /tmp/load.sh <<'END'
insert() {{ {_PSQL} -c "insert into kept values ($1, md5('$1')) on conflict do nothing"; }}
n=0; while n=$((n + 1)); do until insert $n; do :; done; echo $n > /tmp/new && mv /tmp/new /tmp/committed; done
END
su user -s /bin/bash -c 'bash /tmp/start.sh && (setsid bash /tmp/load.sh > /dev/null 2>&1 &)'
"""
COMMITTED = "until [ -s /tmp/committed ] && [ $(cat /tmp/committed) -gt %d ]; do sleep 0.1; done; cat /tmp/committed"
ROWS = f"su user -s /bin/bash -c \"{_PSQL} -c 'select count(*), max(n), bool_and(digest = md5(n::text)) from kept'\""


@pytest.fixture
def postgresql(tmp_path: Path) -> bytes:
    """The packages' files, without the compiler of queries: it is as large as all the rest."""
    tree, archive = tmp_path / "tree", tmp_path / "postgresql.tar"
    tree.mkdir()
    PackageCache(cache_dir() / "cache/apt" / RELEASE, RELEASE).extract(_PACKAGES, tree)
    subprocess.run(["tar", "-cf", archive, "--exclude=bitcode", "--exclude=llvmjit*", "-C", tree, "."], check=True)
    return archive.read_bytes()


@pytest.mark.timeout(120)
@pytest.mark.parametrize("runtime", ["gvisor"])
def test_a_server_under_load_goes_on(box: Box, kept: Kept, runtime: str, postgresql: bytes) -> None:
    agent = box.machine.node._sandboxes[box.id].agent
    box.machine.wait(agent.upload("/tmp/postgresql.tar", postgresql))
    box.sh(START)
    first = box.sh("head -1 /db/data/postmaster.pid")
    committed, again = int(box.sh(COMMITTED % 3)), box
    for _ in range(3):
        again = kept.start(kept.take(again, end=True), box.id, resumed=True)
        committed = int(again.sh(COMMITTED % committed))
        rows, last, right = again.sh(ROWS).split("|")
        assert rows == last
        assert int(rows) >= committed
        assert right == "t"
    assert again.sh("head -1 /db/data/postmaster.pid") == first
