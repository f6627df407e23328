"""Frames of the Connect protocol (current-protocol 4.3)."""

from __future__ import annotations

import pytest

from sandpit.protocol.connect import COMPRESSED, END_STREAM, HEAD_BYTES, Frames, FrameTooLarge, frame

PARTS = [(0, b"{}"), (0, b""), (END_STREAM, b'{"metadata":{}}'), (COMPRESSED, b"x" * 300)]
STREAM = b"".join(frame(payload, flags) for flags, payload in PARTS)


@pytest.mark.parametrize("size", [1, 2, 4, 5, 6, 7, 100, len(STREAM)])
def test_frames_in_pieces_of_any_size(size: int) -> None:
    frames, found = Frames(limit=300), []
    for start in range(0, len(STREAM), size):
        frames.feed(STREAM[start : start + size])
        while (one := frames.take()) is not None:
            found.append(one)
    assert found == PARTS
    assert frames.is_empty


def test_a_frame_that_is_too_large_is_refused_by_its_head() -> None:
    frames = Frames(limit=299)
    frames.feed(frame(b"x" * 300)[:HEAD_BYTES])
    with pytest.raises(FrameTooLarge) as refused:
        frames.take()
    assert refused.value.length == 300


def test_a_stream_that_ends_inside_a_frame_is_not_empty() -> None:
    frames = Frames(limit=10)
    frames.feed(frame(b"abc")[:-1])
    assert frames.take() is None
    assert not frames.is_empty
