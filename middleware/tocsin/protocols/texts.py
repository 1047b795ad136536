"""The text of requests and responses, by the paths at which a protocol has it. Read off the serving path."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from google.protobuf.message import Message

from tocsin.protocols.field_method import FieldMethod
from tocsin.protocols.http.method import JsonMethod
from tocsin.protocols.method import Method
from tocsin.protocols.paths import Step, steps


class TextPath(NamedTuple):
    """Where a text is, on the side `request` or `response`; of several ways, the first that leads to a text."""

    side: str
    ways: tuple[tuple[Step, ...], ...]

    def read(self, message: Any) -> str:
        """The text in a decoded message, "" where there is none."""
        return self.read_turns(message)[0]

    def read_turns(self, message: Any) -> tuple[str, tuple[Turn, ...]]:
        """The same, and its turns where it is a conversation of several messages."""
        for way in self.ways:
            value = _follow(message, way)
            if text := text_of(value):
                return text, turns_of(value)
        return "", ()


class Turn(NamedTuple):
    """One message of a conversation: who says it (user, assistant, system, ...) and what."""

    role: str
    text: str


class Conversation(NamedTuple):
    """What a caller asked and what the model answered, each as text. `turns` are the messages of the request one by
    one, where it has several.
    """

    question: str
    answer: str
    turns: tuple[Turn, ...] = ()


class Texts:
    """Reads the texts of one method's calls. `question` and `answer` are paths such as `request.messages`, "" for the
    places that the method's protocol knows.

    Raises ValueError where a path is invalid, missing, or the method's messages have no paths.
    """

    def __init__(self, method: Method, question: str = "", answer: str = "") -> None:
        if not isinstance(method, JsonMethod | FieldMethod):
            raise ValueError("texts are read of JSON and of messages with fields, and its messages are tensors")
        self._method = method
        self._question = text_path(question or method.texts[0], "question")
        self._answer = text_path(answer or method.texts[1], "answer")

    def read(self, request: bytes | None, responses: Sequence[bytes]) -> Conversation:
        """The texts of a call. Those of a stream's messages follow each other. Raises Unscored `undecodable`."""
        if request is None and "request" in (self._question.side, self._answer.side):
            return Conversation("", "")
        decoded = {"request": [] if request is None else [self._method.decoded(request, "request")]}
        decoded["response"] = [self._method.decoded(message, "response") for message in responses]
        questions = [self._question.read_turns(message) for message in decoded[self._question.side]]
        answers = [self._answer.read(message) for message in decoded[self._answer.side]]
        turns = questions[0][1] if len(questions) == 1 else ()
        return Conversation("".join(text for text, _ in questions), "".join(answers), turns)


def text_path(path: str, name: str) -> TextPath:
    """Parse the path of a text. `name` is the setting's, for messages. Raises ValueError."""
    if not path:
        raise ValueError(f"{name}: the protocol does not know where this text is: name its path, request.PATH")
    side, _, rest = path.partition(".")
    if side not in ("request", "response") or not rest:
        raise ValueError(f"{name}: expected request.PATH or response.PATH, not '{path}'")
    return TextPath(side, tuple(tuple(steps(way.strip().removeprefix(f"{side}."))) for way in rest.split("|")))


def text_of(value: Any) -> str:
    """What a value says: a text itself; of an array, what its elements say, line by line; of an object what its `text`
    or its `content` says. Where there are several messages of a conversation, each begins with its role.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        roles = len(value) > 1
        return "\n".join([text for item in value if (text := _with_role(item) if roles else text_of(item))])
    if isinstance(value, dict):
        return text_of(value.get("text", value.get("content")))
    return ""


def turns_of(value: Any) -> tuple[Turn, ...]:
    """The messages of a conversation, those without a text left out; none where it has a single one."""
    if not isinstance(value, list) or len(value) < 2:
        return ()
    pairs = [(item.get("role"), text_of(item)) for item in value if isinstance(item, dict)]
    return tuple(Turn(role, text) for role, text in pairs if isinstance(role, str) and text)


def _with_role(item: Any) -> str:
    text = text_of(item)
    role = item.get("role") if isinstance(item, dict) else None
    return f"{role}: {text}" if text and isinstance(role, str) else text


def _follow(value: Any, way: Sequence[Step]) -> Any:
    """The value at a text's path, None where there is none."""
    for step in way:
        value = _member(value, step.field)
        for take in step.takes:
            if not isinstance(value, list):
                return None
            if take.lstrip("-").isdigit():
                at = int(take)
                value = value[at] if -len(value) <= at < len(value) else None
    return value


def _member(value: Any, name: str) -> Any:
    """A member of an object or of each element of an array."""
    if isinstance(value, list):
        return [member for item in value if (member := _member(item, name)) is not None]
    if isinstance(value, dict):
        return value.get(name)
    if isinstance(value, Message) and name in value.DESCRIPTOR.fields_by_name:
        field = getattr(value, name)
        return field if isinstance(field, str | Message) else list(field) if hasattr(field, "__iter__") else field
    return None
