"""Create, run a command, kill, over and over; at the end nothing may be left, and the server must not have grown.

How far it is goes to standard error, and the figures so far into the result when it is broken off: by Ctrl-C, SIGTERM, or `minutes`.
"""

from __future__ import annotations

import itertools
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import e2b
import psutil

from benchmarks.rig import Rig, rig
from benchmarks.series import Measurement, Target, percentile

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

NAME = "soak"
_AT_ONCE = 2
_WARM_UP = 20
_TELL_SECONDS = 15.0
_SAMPLE_SECONDS = 5.0
_MOST_ERRORS = 10
"""After as many the rest would say nothing new."""
_MB = 1e6


@dataclass
class _Soak:
    """What was measured so far. Times in milliseconds, in the order in which the cycles began."""

    made: Rig
    creates: dict[int, float] = field(default_factory=dict)
    commands: dict[int, float] = field(default_factory=dict)
    kills: dict[int, float] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)

    def cycle(self, number: int) -> None:
        """One sandbox's life, by the official client."""
        if self.stop.is_set():
            return
        try:
            began = time.perf_counter()
            sandbox = e2b.Sandbox.create(timeout=600)
            created = time.perf_counter()
            output = sandbox.commands.run("echo hi").stdout
            ran = time.perf_counter()
            if not sandbox.kill() or output != "hi\n":
                raise RuntimeError(f"sandbox {sandbox.sandbox_id} was not there, or said {output!r}")
            ended = time.perf_counter()
        except Exception as error:  # noqa: BLE001 - whatever it is, it is counted, shown, and fails the run
            self.errors.append(f"cycle {number}: {error!r}")
            if len(self.errors) >= _MOST_ERRORS:
                self.stop.set()
            return
        self.creates[number] = 1000 * (created - began)
        self.commands[number] = 1000 * (ran - created)
        self.kills[number] = 1000 * (ended - ran)

    def run(self, numbers: range) -> None:
        """All cycles, some at once. Returns early when it is asked to stop."""
        waiting = iter(numbers)
        lock = threading.Lock()

        def work() -> None:
            while not self.stop.is_set():
                with lock:
                    number = next(waiting, None)
                if number is None:
                    return
                self.cycle(number)

        with ThreadPoolExecutor(_AT_ONCE) as pool:
            working = [pool.submit(work) for _ in range(_AT_ONCE)]
            try:
                for one in working:
                    one.result()
            except BaseException:  # Ctrl-C, SIGTERM: the cycles that have begun come to their end
                self.stop.set()
                raise


class _Watch(threading.Thread):
    """Looks at the server now and then, and says how far it is."""

    def __init__(self, soak: _Soak, cycles: int, minutes: float) -> None:
        super().__init__(name="soak watch", daemon=True)
        self._soak, self._cycles = soak, cycles
        self._until = time.monotonic() + 60 * minutes
        self._began = time.monotonic()
        self._server = psutil.Process(soak.made.live.process.pid)
        self._over = threading.Event()
        self.memory: list[float] = []
        self.descriptors: list[float] = []

    def run(self) -> None:
        for number in itertools.count():
            self.look()
            if number % (_TELL_SECONDS // _SAMPLE_SECONDS) == 0:
                self._tell()
            if time.monotonic() > self._until:
                self._soak.stop.set()
            if self._over.wait(_SAMPLE_SECONDS):
                return

    def close(self) -> None:
        self._over.set()
        self.join()

    def look(self) -> None:
        """One sample of the server's memory and descriptors."""
        self.memory.append(self._server.memory_info().rss / _MB)
        self.descriptors.append(float(self._server.num_fds()))

    def _tell(self) -> None:
        done, passed = len(self._soak.creates), time.monotonic() - self._began
        if not done:
            return
        last = _last(self._soak.creates, 200)
        print(
            f"soak: {done} of {self._cycles} in {passed:.0f} s, {done / passed:.1f} per s, create p50 {percentile(last, 0.5):.0f} "
            f"p99 {percentile(last, 0.99):.0f} ms, server {self.memory[-1]:.0f} MB, {self.descriptors[-1]:.0f} descriptors, "
            f"{len(self._soak.errors)} errors",
            file=sys.stderr, flush=True,
        )  # fmt: skip


def measure(cycles: int, minutes: float = float("inf")) -> Iterator[Measurement]:
    """Stops after `minutes`. Raises: LeakError; RuntimeError with the first errors when cycles failed."""
    with rig(pool=2) as made:
        _Soak(made).run(range(min(_WARM_UP, cycles)))
        made.settle()
        soak = _Soak(made)
        watch = _Watch(soak, cycles, minutes)
        watch.look()
        began = time.monotonic()
        watch.start()
        try:
            soak.run(range(cycles))
        except (KeyboardInterrupt, SystemExit) as error:
            print(f"soak: broken off ({error or 'Ctrl-C'})", file=sys.stderr)
        finally:
            watch.close()
        passed = time.monotonic() - began
        made.settle()
        watch.look()
        yield from _rows(soak, watch, passed, cycles)  # before the search for leftovers, which may fail
    yield Measurement("left behind", "", [0.0], targets=(Target("max", 0),))
    if soak.errors:
        raise RuntimeError(f"{len(soak.errors)} cycles failed:\n  " + "\n  ".join(soak.errors[:_MOST_ERRORS]))


def _rows(soak: _Soak, watch: _Watch, passed: float, cycles: int) -> Iterator[Measurement]:
    done = len(soak.creates)
    if not done:
        return
    part = max(1, done // 10)
    note = f"{done} of {cycles} cycles in {passed:.0f} s, {done / passed:.1f} per s"
    for name, values in (("create", soak.creates), ("first command", soak.commands), ("kill", soak.kills)):
        first, last, every = _first(values, part), _last(values, part), _first(values, done)
        yield Measurement(f"{name}, all {done}", "ms", every, note=note if name == "create" else "")
        yield Measurement(
            f"{name}, the last {part}", "ms", last, f"the first {part}", first, (Target("ratio", 1.5),), paired=False
        )
    grown, more = watch.memory[-1] - watch.memory[0], watch.descriptors[-1] - watch.descriptors[0]
    yield Measurement(f"server memory after {done} cycles", "MB more", [grown], targets=(Target("max", 32),),
                      note=f"from {watch.memory[0]:.1f} MB; at most {max(watch.memory):.1f} MB")  # fmt: skip
    yield Measurement(f"server descriptors after {done} cycles", "more", [more], targets=(Target("max", 8),),
                      note=f"from {watch.descriptors[0]:.0f}; at most {max(watch.descriptors):.0f}")  # fmt: skip
    yield Measurement("cycles that failed", "", [float(len(soak.errors))], targets=(Target("max", 0),))


def _first(values: dict[int, float], count: int) -> Sequence[float]:
    return [values[number] for number in sorted(values)[:count]]


def _last(values: dict[int, float], count: int) -> Sequence[float]:
    return [values[number] for number in sorted(values)[-count:]]
