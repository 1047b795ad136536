"""Claims about frames as bytes."""

from __future__ import annotations

import pytest
from hyperframe.frame import ContinuationFrame, Frame, HeadersFrame, SettingsFrame
from hypothesis import given
from hypothesis import strategies as st

from tocsin.http2 import frames


def test_rewritten_settings_keep_everything_but_the_table_size() -> None:
    original = SettingsFrame(0)
    original.settings = {1: 4096, 3: 100, 4: 1 << 20, 5: 1 << 14, 0x1F: 1}
    rewritten, length = Frame.parse_frame_header(
        memoryview(frames.stateless_settings(original.serialize()[frames.HEADER_SIZE :]))[:9]
    )
    payload = frames.stateless_settings(original.serialize()[frames.HEADER_SIZE :])[frames.HEADER_SIZE :]
    assert length == len(payload)
    rewritten.parse_body(memoryview(payload))
    assert isinstance(rewritten, SettingsFrame)
    assert dict(rewritten.settings) == {**dict(original.settings), 1: 0}


def test_settings_of_a_broken_length_end_the_connection() -> None:
    with pytest.raises(frames.FrameError):
        frames.read_settings(b"\0\1\0\0\0")


@given(st.binary(max_size=70_000), st.integers(16_384, 20_000), st.booleans())
def test_header_frames_hold_the_block_whatever_the_limit(block: bytes, largest: int, end_stream: bool) -> None:
    encoded = memoryview(frames.header_frames(5, block, end_stream=end_stream, largest=largest))
    parsed = []
    while encoded:
        frame, length = Frame.parse_frame_header(encoded[:9])
        frame.parse_body(encoded[9 : 9 + length])
        encoded = encoded[9 + length :]
        parsed.append(frame)
        assert length <= largest and frame.stream_id == 5
    assert b"".join(frame.data for frame in parsed if isinstance(frame, (HeadersFrame, ContinuationFrame))) == block
    assert isinstance(parsed[0], HeadersFrame) and ("END_STREAM" in parsed[0].flags) == end_stream
    assert all(isinstance(frame, ContinuationFrame) for frame in parsed[1:])
    assert ["END_HEADERS" in frame.flags for frame in parsed] == [False] * (len(parsed) - 1) + [True]


@given(st.binary(max_size=100), st.integers(0, 255), st.booleans())
def test_padding_and_priority_are_taken_off_header_blocks(block: bytes, padding: int, priority: bool) -> None:
    frame = HeadersFrame(1, data=block, flags=["PADDED"] + (["PRIORITY"] if priority else []))
    frame.pad_length = padding
    encoded = frame.serialize()
    assert frames.header_block(encoded[4], encoded[9:]) == block


@pytest.mark.parametrize("payload", [b"", b"\x05abc", b"\x01"])
def test_padding_longer_than_the_frame_ends_the_connection(payload: bytes) -> None:
    with pytest.raises(frames.FrameError):
        frames.unpadded(payload)
    if payload != b"\x01":
        with pytest.raises(frames.FrameError):
            frames.header_block(frames.PADDED, payload)
