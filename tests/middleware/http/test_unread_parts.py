"""Claims: members of parts that nobody reads are counted without being decoded, and a second member beside a value that
is read is found all the same, whatever is read of the document and in which order that was said."""

from __future__ import annotations

import json
from itertools import permutations
from typing import Any

import pytest
from benchmarks.harness.chat import token

from tocsin.protocols.http import scanner
from tocsin.protocols.http.document import Document
from tocsin.protocols.http.single_members import written_again
from tocsin.unscored import Unscored

TOKENS, TOPS = "choices[0].logprobs.content[].logprob", "choices[0].logprobs.content[].top_logprobs[].logprob"
ALONE = "choices[0].logprobs.refusal[].logprob"


@pytest.fixture(autouse=True)
def without_scanner(monkeypatch: pytest.MonkeyPatch) -> None:
    """The scanner counts nothing: it sees of which members there are two."""
    monkeypatch.setattr(scanner, "load_scanner", lambda: None)


def completion(text: str = "a", tops: int = 3, **logprobs: Any) -> bytes:
    content = [token(text, -0.5 - at, tops) for at in range(4)]
    choice = {"index": 0, "logprobs": {"content": content, **logprobs}}
    return json.dumps({"model": "m", "choices": [choice]}, separators=(",", ":")).encode()


def is_searched(document: Document, content: bytes) -> bool:
    """Whether the document would be searched as a whole, because names in it are not accounted for."""
    decoded, occurrences = document.decode(content), content.count(b'"logprob"')
    written = written_again(decoded).count(b'"logprob"')
    return written != occurrences and not document._accounts_for(occurrences, "logprob", decoded)


def reading(*read: str, accounted: tuple[str, ...] = ()) -> Document:
    document = Document("response")
    for path in read:
        document.place(path, "number")
    for path in accounted:
        document.account_for(path)
    return document


@pytest.mark.parametrize("text", ["a", "\\/", "ä \\ud83d", 'say "logprob"'])
@pytest.mark.parametrize("tops", [0, 1, 20])
def test_names_in_unread_parts_are_accounted_for(text: str, tops: int) -> None:
    document, content = reading(TOKENS, accounted=(f"{TOKENS}|{ALONE}", TOPS)), completion(text, tops)
    decoded = document.decode(content)
    document.require_single(content, decoded, ["logprob"])
    assert document._accounts_for(content.count(b'"logprob"'), "logprob", decoded)
    assert not is_searched(document, content)


def test_what_is_not_read_is_not_decoded() -> None:
    document = reading(TOKENS, accounted=(TOPS,))
    content = (
        completion(tops=1)
        .replace(b'"top_logprobs":[{', b'"top_logprobs":[{"logprob":"none",')
        .replace(b'"none","logprob"', b'"none","other"')
    )
    document.require_single(content, document.decode(content), ["logprob"])
    with pytest.raises(Unscored, match="cannot be read"):
        reading(TOKENS, TOPS).decode(content)


@pytest.mark.parametrize("text", ["a", "\\/"])
def test_a_second_value_beside_one_that_is_read_is_found(text: str) -> None:
    document = reading(TOKENS, accounted=(TOPS,))
    content = completion(text).replace(b'"logprob":-0.5,', b'"logprob":-9,"logprob":-0.5,', 1)
    with pytest.raises(Unscored, match="two members 'logprob'"):
        document.require_single(content, document.decode(content), ["logprob"])
    assert is_searched(document, content)


def test_a_second_part_beside_an_unread_one_is_found() -> None:
    document = reading(TOKENS, accounted=(TOPS,))
    content = completion().replace(b'"top_logprobs"', b'"top_logprobs":[{"logprob":1}],"top_logprobs"', 1)
    with pytest.raises(Unscored, match="two members 'top_logprobs'"):
        document.require_single(content, document.decode(content), ["logprob"])


@pytest.mark.parametrize("order", list(permutations([TOKENS, TOPS, ALONE])))
@pytest.mark.parametrize("reads", [1, 2, 3])
def test_the_order_of_paths_says_nothing(order: tuple[str, ...], reads: int) -> None:
    content = completion(refusal=[token("no", -1.0)])
    document = reading(*order[:reads], accounted=order)
    document.require_single(content, document.decode(content), ["logprob"])
    assert not is_searched(document, content)
    document = reading(*order[:1], accounted=order)
    document.decode(content)
    for path in order[:reads]:  # others come to read it later
        document.place(path, "number")
        document.require_single(content, document.decode(content), ["logprob"])
        assert not is_searched(document, content)
