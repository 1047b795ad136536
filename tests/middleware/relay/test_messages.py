"""Claims about gRPC messages put together from DATA payloads."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tocsin.grpc_wire.deframer import MessageDeframer, whole_message
from tocsin.memory import MemoryBudget


def framed(content: bytes, compressed: bool = False) -> bytes:
    return bytes([compressed]) + len(content).to_bytes(4, "big") + content


def unreachable() -> None:
    raise AssertionError("nobody is cut off")


def cut(content: bytes, places: list[int]) -> list[bytes]:
    at = sorted({0, len(content), *(p % (len(content) + 1) for p in places)})
    return [content[a:b] for a, b in zip(at, at[1:], strict=False)]


@given(st.lists(st.binary(max_size=60), max_size=6), st.lists(st.integers(0, 500), max_size=12))
def test_messages_come_out_whole_however_payloads_are_cut(contents: list[bytes], places: list[int]) -> None:
    memory = MemoryBudget(10_000)
    assembler = MessageDeframer(1_000, memory.open(unreachable))
    stream = b"".join(map(framed, contents))
    received = [message.content for payload in cut(stream, places) for message in assembler.feed(payload)]
    assert received == contents
    assert memory.remaining == 10_000


@given(st.lists(st.integers(0, 120), min_size=1, max_size=6), st.lists(st.integers(0, 800), max_size=12))
def test_messages_over_the_limit_are_skipped_and_named(sizes: list[int], places: list[int]) -> None:
    memory = MemoryBudget(10_000)
    assembler = MessageDeframer(50, memory.open(unreachable))
    contents = [bytes([size]) * size for size in sizes]
    stream = b"".join(map(framed, contents))
    received = [(m.content, m.fault) for payload in cut(stream, places) for m in assembler.feed(payload)]
    assert received == [(c, None) if len(c) <= 50 else (None, "too_large") for c in contents]
    assert memory.remaining == 10_000


@given(
    st.lists(st.integers(0, 20_000), max_size=5), st.lists(st.integers(0, 60_000), max_size=12), st.booleans(),
    st.booleans(),
)  # fmt: skip
def test_large_pieces_are_put_together_as_small_ones_are(
    sizes: list[int], places: list[int], reads: bool, in_part: bool
) -> None:
    memory = MemoryBudget(1_000_000)
    assembler = MessageDeframer(15_000, memory.open(unreachable), reads=reads)
    contents = [bytes([number + 1]) * size for number, size in enumerate(sizes)]
    stream = b"".join(map(framed, contents))
    received, most_kept = [], 0
    for payload in cut(stream, places):
        if not (in_part and assembler.take_part(b"." + payload, 1, 1 + len(payload), keeps=True)):
            received += [(message.content, message.fault) for message in assembler.feed(payload)]
        most_kept = max(most_kept, 1_000_000 - memory.remaining)
    expected = [(content, None) if len(content) <= 15_000 else (None, "too_large") for content in contents]
    if reads:
        assert received == expected
    else:  # nothing is kept but the beginning of a prefix
        assert most_kept < 5
        assert all(content in (b"", wanted) for (content, _), (wanted, _) in zip(received, expected, strict=True))
        assert [fault for _, fault in received] == [fault for _, fault in expected]
    assert memory.remaining == 1_000_000 and assembler.unfinished() == b""


def test_unfinished_messages_share_one_bound_and_give_it_back() -> None:
    memory = MemoryBudget(100)
    account = memory.open(unreachable)
    first, second = MessageDeframer(1_000, account), MessageDeframer(1_000, account)
    assert list(first.feed(framed(b"a" * 200)[:90])) == []
    assert list(second.feed(framed(b"b" * 200)[:90])) == []
    (skipped,) = second.feed(framed(b"b" * 200)[90:])
    assert (skipped.content, skipped.fault) == (None, "memory")
    first.forget()
    assert memory.remaining == 100


def test_a_large_piece_is_taken_in_part_only_where_there_is_memory_for_it() -> None:
    memory = MemoryBudget(20_000)
    account = memory.open(unreachable)
    assembler = MessageDeframer(100_000, account)
    assert list(assembler.feed(framed(b"a" * 50_000)[:10])) == []
    piece, used_before = b"a" * 8_000, account.used
    assert assembler.take_part(piece, 0, len(piece), keeps=True)
    assert account.used == used_before + 8_000
    assert not assembler.take_part(piece, 0, len(piece), keeps=False)  # all of what it is in would be kept
    assert not assembler.take_part(piece, 0, len(piece), keeps=True)
    assert account.used == used_before + 8_000 and account.is_open
    assert list(assembler.feed(piece)) == []  # the last one for which there is room
    assert not assembler.take_part(piece, 0, len(piece), keeps=True)
    assert list(assembler.feed(piece)) == [] and account.used == 0  # the message is skipped
    (message,) = assembler.feed(b"a" * (50_000 - 5 - 24_000))
    assert (message.content, message.fault) == (None, "memory")
    assert memory.remaining == 20_000


def test_the_compression_flag_is_told() -> None:
    (message,) = MessageDeframer(100, MemoryBudget(100).open(unreachable)).feed(framed(b"zip", compressed=True))
    assert message.compressed and message.content == b"zip"


@given(st.binary(max_size=60), st.binary(max_size=3), st.booleans())
def test_the_usual_case_is_told_apart_from_every_other(content: bytes, more: bytes, compressed: bool) -> None:
    payload = framed(content, compressed) + more
    assert whole_message(payload, 60) == (content if not more and not compressed else None)
    assert whole_message(framed(content), len(content) - 1) is None
    for cut_at in range(len(framed(content))):
        assert whole_message(framed(content)[:cut_at], 60) is None
