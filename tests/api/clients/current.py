"""The current Python client, unmodified, against the API: run with E2B_API_KEY and E2B_API_URL set."""

from __future__ import annotations

from datetime import timedelta

from e2b import (
    AuthenticationException,
    InvalidArgumentException,
    RateLimitException,
    Sandbox,
    SandboxException,
    SandboxNotFoundException,
    SandboxQuery,
    SandboxState,
    Template,
)


def raises(kind, call):
    try:
        call()
    except kind as error:
        return error
    raise AssertionError(f"{kind.__name__} was not raised")


first = Sandbox.create(timeout=60, metadata={"run": "a b&c", "n": "1"}, envs={"X": "y"})
info = first.get_info()
assert info.sandbox_id == first.sandbox_id
assert info.metadata == {"run": "a b&c", "n": "1"}
assert info.state == SandboxState.RUNNING
assert (info.end_at - info.started_at).total_seconds() == 60
assert info.envd_version
assert first._envd_access_token

second = Sandbox.create("base", metadata={"run": "a b&c", "n": "2"})
query = SandboxQuery(metadata={"run": "a b&c"})
pages = Sandbox.list(query=query, limit=1)
assert [item.sandbox_id for item in pages.next_items()] == [second.sandbox_id]
assert pages.has_next
assert pages.next_token
assert [item.sandbox_id for item in pages.next_items()] == [first.sandbox_id]
assert not pages.has_next
everything = Sandbox.list()
assert {item.sandbox_id for item in everything.next_items()} == {first.sandbox_id, second.sandbox_id}
paused = Sandbox.list(query=SandboxQuery(state=[SandboxState.PAUSED]))
assert paused.next_items() == []
both = Sandbox.list(query=SandboxQuery(state=[SandboxState.RUNNING, SandboxState.PAUSED], metadata={"n": "1"}))
assert [item.metadata["n"] for item in both.next_items()] == ["1"]
late = Sandbox.list(query=SandboxQuery(started_after=info.started_at + timedelta(seconds=3600)))
assert late.next_items() == []
of_template = Sandbox.list(query=SandboxQuery(template="nothing"))
assert of_template.next_items() == []

first.set_timeout(100)
longer = first.get_info().end_at
assert longer > info.end_at
connected = Sandbox.connect(first.sandbox_id, timeout=10)
assert connected.get_info().end_at == longer
assert connected._envd_access_token == first._envd_access_token
Sandbox.connect(first.sandbox_id, timeout=1000)
assert first.get_info().end_at > longer

first.update_network({"deny_out": ["8.8.8.8"]})
assert first.get_info().network["deny_out"] == ["8.8.8.8"]
private = Sandbox.create(network={"allow_public_traffic": False})
assert private.traffic_access_token
assert private.kill() is True

isolated = Sandbox.create(allow_internet_access=False, lifecycle={"on_timeout": None})
assert isolated.get_info().allow_internet_access is False
assert isolated.kill() is True

assert isinstance(first.get_metrics(), list)
assert Template.exists("base") is True
assert Template.exists("no-such-template") is False

assert Sandbox.kill("nonexistingsandbox") is False
assert first.kill() is True
assert Sandbox.kill(first.sandbox_id) is False
raises(SandboxNotFoundException, lambda: Sandbox.connect(first.sandbox_id))
raises(SandboxNotFoundException, first.get_info)
raises(SandboxNotFoundException, lambda: first.set_timeout(5))
raises(SandboxNotFoundException, first.pause)
raises(AuthenticationException, lambda: Sandbox.create(api_key="e2b_" + "0" * 40))
assert "404" in str(raises(SandboxException, lambda: Sandbox.create("no-such-template")))
assert "400" in str(raises(SandboxException, lambda: Sandbox.create(timeout=10**6)))
assert "501" in str(raises(SandboxException, second.pause))
raises(InvalidArgumentException, lambda: second.fork(count=0))
refused = raises(SandboxException, lambda: Sandbox.create(lifecycle={"on_timeout": "pause"}))
assert "autoPause" in str(refused)

made = []
error = None
for _ in range(3):
    try:
        made.append(Sandbox.create())
    except RateLimitException as limit:
        error = limit
assert error is not None, "the limit of 3 sandboxes did not hold"
for sandbox in (*made, second):
    assert sandbox.kill() is True
same = [Sandbox.create(idempotency_key="again-1").sandbox_id for _ in range(2)]
assert same[0] == same[1]
Sandbox.kill(same[0])
print("ok")
