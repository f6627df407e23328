"""What the programs share. They run with the packages of 2024 and nothing else, as a user's program would."""

from __future__ import annotations

import time

PATIENCE = 40.0


def until(question, what="it"):
    """Ask until the answer is true; returns it."""
    deadline = time.monotonic() + PATIENCE
    while not (answer := question()):
        assert time.monotonic() < deadline, f"never came true: {what}"
        time.sleep(0.1)
    return answer


def ids(cls):
    """The sandboxes of this key, by their public ids."""
    return {sandbox.sandbox_id: sandbox for sandbox in cls.list()}
