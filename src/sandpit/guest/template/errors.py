"""What a step can say when it fails."""

from __future__ import annotations


class StepFailed(Exception):
    """The message is what the template's author reads."""
