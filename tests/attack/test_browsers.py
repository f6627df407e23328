"""A web page in the operator's browser, while authentication is off: it may not use the API, whichever port it comes through."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import httpx
import pytest
from tests import leaks
from tests.abuse.front import raw
from tests.live import Live

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def server(built_images: None) -> Iterator[Live]:
    live = Live({"SANDPIT_RUNTIME": "crun", "SANDPIT_POOL__SIZE": "0", "SANDPIT_AUTHENTICATION": "false"})
    leaks.kept.add(live.name)
    live.start()
    yield live
    live.stop()
    live.remove()


def test_no_page_may_use_the_api(server: Live) -> None:
    for url in (server.api_url, server.edge_url):
        here = httpx.URL(url).netloc.decode()
        assert httpx.get(f"{url}/v2/sandboxes", trust_env=False).status_code == 200, "programs of this machine may"
        pages = (
            {"Origin": "https://evil.example"},
            {"Origin": f"http://{here}"},  # where a sandbox's page can be, by a link with credentials or a signature
            {"Origin": "null"},
            {"Sec-Fetch-Site": "same-origin"},
            {"Sec-Fetch-Site": "cross-site"},
            {"Host": "evil.example"},
            {"Host": f"evil.example:{httpx.URL(url).port}"},
            {"Host": "api.evil.example"},
        )
        for headers in pages:
            for kind in ("application/json", "text/plain"):
                answer = httpx.post(
                    f"{url}/v2/sandboxes", content='{"templateID": "base"}', headers={"Content-Type": kind, **headers}, trust_env=False
                )  # fmt: skip
                assert answer.status_code == 403, (url, headers)
                assert "access-control-allow-origin" not in answer.headers, (url, headers)
            ask = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type"}
            preflight = httpx.options(f"{url}/v2/sandboxes", headers={**ask, **headers}, trust_env=False)
            assert preflight.status_code == 403, (url, headers)
            assert "access-control-allow-origin" not in preflight.headers, (url, headers)
        two = b"GET /v2/sandboxes HTTP/1.1\r\nHost: 127.0.0.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n"
        assert raw(url, two)[0] in (400, 403)
    listed = httpx.get(f"{server.api_url}/v2/sandboxes", trust_env=False)
    assert json.loads(listed.content) == []
