"""How many sandboxes of a template are wanted ready: as many as were asked for at once lately."""

from __future__ import annotations

from collections import deque

_AT_ONCE_SECONDS = 1.0
_REMEMBERED_SECONDS = 120.0


class Demand:
    """Counts creates by their time, in seconds of any clock that only goes forward."""

    def __init__(self, least: int, most: int) -> None:
        """`wanted` stays between `least` and `most`."""
        self._least = least
        self._most = max(least, most)
        self._asked: deque[float] = deque()
        self._peaks: deque[tuple[float, int]] = deque()
        """Times and heights of bursts, each higher than those after it: the first is the highest that is remembered."""

    def ask(self, now: float) -> None:
        """Somebody wants a sandbox."""
        self._asked.append(now)
        while self._asked[0] <= now - _AT_ONCE_SECONDS:
            self._asked.popleft()
        height = len(self._asked)
        while self._peaks and self._peaks[-1][1] <= height:
            self._peaks.pop()
        self._peaks.append((now, height))

    def wanted(self, now: float) -> int:
        """How many to keep ready."""
        while self._peaks and self._peaks[0][0] < now - _REMEMBERED_SECONDS:
            self._peaks.popleft()
        peak = self._peaks[0][1] if self._peaks else 0
        return min(max(self._least, peak), self._most)

    def next_change(self, now: float) -> float | None:
        """Seconds until `wanted` may be less; None when it stays."""
        return max(0.0, self._peaks[0][0] + _REMEMBERED_SECONDS - now) if self._peaks else None
