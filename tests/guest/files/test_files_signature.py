"""Signed links (current-protocol 1.8): the algorithm and who gets in."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest

from sandpit.protocol.links import Link, Verdict, sign

if TYPE_CHECKING:
    from pathlib import Path

TOKEN = "0tQG31xiMp0IOQfaz9dcwi72L1CPo8e0"


def test_vector() -> None:
    assert sign("hello.txt", "read", "user", TOKEN) == "v1_gUtH/s9YCJWgCizjfUxuWfhFE4QSydOWEIIvfLwDr6E"


@pytest.mark.parametrize(
    ("signature", "expiration", "verdict"),
    [
        ("", None, "missing"),
        ("v1_x", None, "invalid"),
        ("ä", None, "invalid"),
        (sign("p", "write", "", TOKEN), None, "invalid"),
        (sign("p", "read", "root", TOKEN), None, "invalid"),
        (sign("p", "read", "", TOKEN), "99999999999", "invalid"),
        (sign("p", "read", "", TOKEN, 99999999999), None, "invalid"),
        (sign("p", "read", "", TOKEN, 99999999999), "+99999999999", "invalid"),
        (sign("p", "read", "", TOKEN, 1), "1", "expired"),
    ],
)
def test_refusals(signature: str, expiration: str | None, verdict: Verdict) -> None:
    assert Link("p", "", signature, expiration).judge(TOKEN, "read") == verdict


def test_accepts() -> None:
    assert Link("p", "u", sign("p", "read", "u", TOKEN)).judge(TOKEN, "read") == "opens"
    later = int(time.time()) + 60
    assert Link("p", "", sign("p", "write", "", TOKEN, later), str(later)).judge(TOKEN, "write") == "opens"


def _query(path: str, operation: Any, user: str = "", expiration: int | None = None) -> dict[str, str]:
    query = {"path": path, "signature": sign(path, operation, user, TOKEN, expiration)}
    if user:
        query["username"] = user
    if expiration is not None:
        query["signature_expiration"] = str(expiration)
    return query


def test_upload_and_download_by_link(secured: Any, folder: Path) -> None:
    path = str(folder / "signed ü.txt")
    answer = secured.http.post("/files", params=_query(path, "write", "root"), files={"file": ("x", b"content")})
    assert (answer.status_code, answer.json()) == (200, [{"name": "signed ü.txt", "path": path, "type": "file"}])
    assert secured.http.get("/files", params=_query(path, "read")).content == b"content"
    assert (folder / "signed ü.txt").stat().st_uid == 0


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_expired_link(secured: Any, method: str) -> None:
    operation = "read" if method == "GET" else "write"
    answer = secured.http.request(method, "/files", params=_query("/etc/passwd", operation, "", 1))
    assert (answer.status_code, answer.json()) == (401, {"code": 401, "message": "signature is already expired"})


@pytest.mark.parametrize(
    ("query", "headers", "message"),
    [
        ({"path": "/etc/passwd"}, {}, "missing signature query parameter"),
        (_query("/etc/passwd", "read"), {"x-access-token": "x"}, "access token present in header but does not match"),
        ({**_query("/etc/passwd", "read"), "path": "/etc/shadow"}, {}, "invalid signature"),
        ({**_query("/etc/passwd", "read"), "username": "root"}, {}, "invalid signature"),
        (_query("/etc/passwd", "read", "nosuchuser"), {}, "invalid username: 'nosuchuser'"),
        ({"path": "/x", "username": "nosuchuser"}, {"x-access-token": TOKEN}, "invalid username: 'nosuchuser'"),
    ],
)
def test_refused_requests(secured: Any, query: dict[str, str], headers: dict[str, str], message: str) -> None:
    answer = secured.http.get("/files", params=query, headers=headers)
    assert (answer.status_code, answer.json()) == (401, {"code": 401, "message": message})


def test_duplicate_parameters_are_refused(secured: Any) -> None:
    query = [*_query("/etc/passwd", "read").items(), ("path", "/etc/shadow")]
    assert secured.http.get("/files", params=query).status_code == 400
    tokens = [("x-access-token", TOKEN), ("x-access-token", "other")]
    assert secured.http.get("/files", params={"path": "/etc/passwd"}, headers=tokens).status_code == 401


def test_head_needs_the_token_too(secured: Any) -> None:
    assert secured.http.head("/files", params={"path": "/etc/passwd"}).status_code == 401


def test_a_header_cannot_change_the_signed_user(secured: Any, folder: Path) -> None:
    folder.chmod(0o777)
    path = str(folder / "mine")
    answer = secured.http.post("/files", params=_query(path, "write"), files={"file": ("x", b"1")}, auth=("root", ""))
    assert answer.status_code == 200
    assert (folder / "mine").owner() == "nobody"


def test_missing_file_by_link(secured: Any) -> None:
    answer = secured.http.get("/files", params=_query("/no/such", "read"))
    assert (answer.status_code, answer.json()) == (404, {"code": 404, "message": "path '/no/such' does not exist"})
