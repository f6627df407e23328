"""The server's own log: nobody forges a line in it, or pushes out another's, and it does not fill the disk."""

from __future__ import annotations

import io
import logging
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from tests.machines import REPOSITORY

from sandpit.lib import serverlog as logs

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

A, B = "i" + "a" * 20, "i" + "b" * 20
OWNERS = {A: "team-a", B: "team-b"}


Log = tuple[logging.Logger, io.StringIO, logs.FairShare, list[float]]


@pytest.fixture
def log() -> Iterator[Log]:
    """A logger, what it wrote, its filter, and the clock that this goes by."""
    now = [1000.0]
    written = io.StringIO()
    handler = logging.StreamHandler(written)
    handler.setFormatter(logs.LineFormatter("START %(levelname)s: %(message)s"))
    share = logs.FairShare(lambda: now[0])
    share.tenant_of = OWNERS.get
    handler.addFilter(share)
    # Apart from all others: what is logged here cannot be sent between the tests' processes.
    logger = logging.Logger("under.test")  # noqa: LOG001
    logger.addHandler(handler)
    yield logger, written, share, now
    logger.removeHandler(handler)


def test_no_line_is_forged(log: Log) -> None:
    logger, written, *_ = log
    evil = "x\nSTART ERROR: forged\r\x1b[2J\u2028START\x85\u202e\ud800\tend"
    logger.warning("a guest says %s", evil)
    try:
        raise ValueError(evil) from RuntimeError("START INFO: forged\nSTART INFO: forged")
    except ValueError:
        logger.exception("sandbox %s", A)
    lines = written.getvalue().split("\n")[:-1]
    assert [line for line in lines if line.startswith("START")] == [lines[0], lines[1]]
    assert lines[0].count("\\u000a") == 1
    assert all(line.isprintable() for line in lines)


def test_lines_have_a_greatest_length(log: Log) -> None:
    logger, written, *_ = log
    logger.error("%s", "x" * 10_000_000)
    try:
        raise ValueError("y\n" * 1_000_000)
    except ValueError:
        logger.exception("z")
    assert len(written.getvalue()) < 100_000


def test_a_tenant_has_its_allowance_and_no_more(log: Log) -> None:
    logger, written, _, now = log
    for _ in range(10_000):
        logger.warning("sandbox %s is loud: %s", A, "x" * 500)
    assert len(written.getvalue()) < 2 * logs.ALLOWANCE_BYTES
    logger.warning("sandbox %s is quiet", B)
    assert f"sandbox {B} is quiet" in written.getvalue()
    now[0] += 60
    logger.warning("sandbox %s again", A)
    said = written.getvalue().splitlines()[-1]
    assert f"sandbox {A} again" in said
    assert "lines of team team-a were left out" in said
    logger.warning("sandbox %s again", A)
    assert "left out" not in written.getvalue().splitlines()[-1], "each is counted once"


def test_what_was_left_out_is_told_by_anybodys_line(log: Log) -> None:
    logger, written, _, now = log
    for _ in range(1000):
        logger.warning("sandbox %s: %s", A, "x" * 500)
    now[0] += logs.TOLD_SECONDS + 1
    logger.warning("sandbox %s is quiet", B)
    assert "lines of team team-a were left out" in written.getvalue().splitlines()[-1]


def test_requests_count_for_their_team(log: Log) -> None:
    """Whatever they say, and wherever it is logged."""
    logger, written, *_ = log
    token = logs.tenant.set("team-a")
    for number in range(1000):
        logger.error("no sandbox is named here: %s", f"{number}" * 100)
    logs.tenant.reset(token)
    size = len(written.getvalue())
    assert size < 2 * logs.ALLOWANCE_BYTES
    logger.warning("sandbox %s", A)
    assert len(written.getvalue()) <= size + 200, "the same allowance"
    logger.warning("sandbox %s", B)
    assert f"sandbox {B}" in written.getvalue()


def test_allowances_do_not_pile_up() -> None:
    share = logs.FairShare()
    for number in range(3 * logs.MAX_SUBJECTS):
        record = logging.LogRecord("n", logging.INFO, "p", number, "m", (), None)
        assert share.filter(record) or number > logs.MAX_SUBJECTS
    assert len(share._allowances) <= logs.MAX_SUBJECTS + 1


def test_the_file_rotates_with_all_that_is_printed(tmp_path: Path) -> None:
    """Size and number are bounded, every file is its owner's alone, and what is printed follows to the new one."""
    program = (
        "import logging, pathlib, sys\n"
        "from sandpit.lib import serverlog as logs\n"
        f"handler = logs.RotatingLog(pathlib.Path({str(tmp_path / 'server.log')!r}), 100_000, 3)\n"
        "handler.setFormatter(logs.LineFormatter('%(message)s'))\n"
        "logging.basicConfig(level='INFO', handlers=[handler])\n"
        "for number in range(20_000): logging.info('%d %s', number, 'x' * 50)\n"
        "print('the last words', file=sys.stderr, flush=True)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=50, env={"PYTHONPATH": str(REPOSITORY / "src")})
    files = sorted(tmp_path.iterdir())
    assert [file.name for file in files] == ["server.log", "server.log.1", "server.log.2"]
    assert all(file.stat().st_size < 110_000 and file.stat().st_mode & 0o777 == 0o600 for file in files)
    text = files[0].read_text()
    assert text.endswith("the last words\n")
    assert "19999 " in text
