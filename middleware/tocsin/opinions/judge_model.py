"""A judge model behind an OpenAI-compatible API, asked within a time limit and a budget of calls."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from tocsin.checks.chat import first_token_request
from tocsin.configuration.fields import Address
from tocsin.configuration.listener import UpstreamTls
from tocsin.configuration.opinions import JudgeModelConfig
from tocsin.errors import ConfigError
from tocsin.opinions import replies
from tocsin.opinions.lost import Lost
from tocsin.opinions.pace import Pace
from tocsin.outbound_http import HttpCall, HttpTarget, fetch

MAX_ANSWER = 4 << 20  # bytes

Reply = TypeVar("Reply")


class JudgeModel:
    """One judge. `seconds` is how long one call may take; `environment` holds its key.

    Raises ConfigError where the environment has no key that can be sent.
    """

    def __init__(self, config: JudgeModelConfig, seconds: float, environment: Mapping[str, str]) -> None:
        url = config.url
        tls = UpstreamTls(ca=config.ca) if url.scheme == "https" else None
        self._target = HttpTarget(Address(url.host or "", url.port or 80), tls)
        query = f"?{url.query}" if url.query else ""
        base = (url.path or "").rstrip("/")
        self._chat, self._completions = f"{base}/chat/completions{query}", f"{base}/completions{query}"
        self._embeddings = f"{base}/embeddings{query}"
        self._headers = [("Content-Type", "application/json"), ("User-Agent", "tocsin")]
        if config.key_env is not None:
            self._headers.append(("Authorization", f"Bearer {_key(config.key_env, environment)}"))
        self._model, self._seconds = config.model, seconds

    def first_token(self, prompt: str) -> Mapping[str, float]:
        """Likely first tokens of its answer and their log-probabilities, nats. Raises Lost."""
        return replies.first_tokens(self._post(self._chat, first_token_request(self._model, prompt)))

    def text(self, prompt: str, tokens: int) -> str:
        """Its answer of at most so many tokens. Raises Lost."""
        messages = [{"role": "user", "content": prompt}]
        body = {"model": self._model, "messages": messages, "max_tokens": tokens, "temperature": 0}
        return replies.message_text(self._post(self._chat, body))

    def continuation(self, before: str, text: str) -> float:
        """The log-probability, nats, that it gives to `text` behind `before`, summed over the tokens that begin in
        `text`. The server must echo prompts with their log-probabilities, as vLLM and SGLang do. Raises Lost.
        """
        body = {"model": self._model, "prompt": before + text, "max_tokens": 1, "temperature": 0}
        reply = self._post(self._completions, {**body, "echo": True, "logprobs": 1})
        return replies.echoed_logprob(reply, len(before), len(before) + len(text))

    def embedding(self, text: str) -> NDArray[np.float32]:
        """The embedding (D,) of a text, finite and not zero. Raises Lost."""
        return replies.embedding(self._post(self._embeddings, {"model": self._model, "input": text}))

    def _post(self, path: str, body: Mapping[str, Any]) -> Any:
        call = HttpCall("POST", path, self._headers, json.dumps(body).encode(), self._seconds, MAX_ANSWER)
        try:
            status, _, content = fetch(self._target, call)
        except TimeoutError:
            raise Lost("timeout", f"the judge did not answer within {self._seconds:g} s") from None
        except (OSError, http.client.HTTPException) as error:
            why = f": {error.strerror}" if isinstance(error, OSError) and error.strerror else ""
            raise Lost("unreachable", f"the judge cannot be asked ({type(error).__name__}{why})") from None
        except ValueError:
            raise Lost("unreadable", f"the judge's answer has more than {MAX_ANSWER:,} bytes") from None
        if status != 200:
            raise Lost("refused", f"the judge answered with HTTP {status}")
        try:
            return json.loads(content)
        except (ValueError, RecursionError):
            raise Lost("unreadable", "the judge's answer is no JSON") from None


def _key(name: str, environment: Mapping[str, str]) -> str:
    """The API key that a variable holds. Raises ConfigError where it holds none."""
    key = environment.get(name, "").strip()
    if not key:
        raise ConfigError(f"second_opinion: the environment has no {name}, which a key_env names")
    if not (key.isascii() and key.isprintable()):
        raise ConfigError(f"second_opinion: {name}, which a key_env names, holds characters that no key can have")
    return key


class PacedJudge:
    """A judge that is asked within a budget: each call waits for its turn, at most until `deadline` (time.monotonic),
    and is counted.
    """

    def __init__(
        self, judge: JudgeModel, pace: Pace, deadline: float, ending: threading.Event, count: Callable[[float], None]
    ) -> None:
        self._judge, self._pace, self._deadline, self._ending, self._count = judge, pace, deadline, ending, count

    def first_token(self, prompt: str) -> Mapping[str, float]:
        """As a judge does. Raises Lost."""
        self._wait()
        return self._counted(lambda: self._judge.first_token(prompt))

    def text(self, prompt: str, tokens: int) -> str:
        """As a judge does. Raises Lost."""
        self._wait()
        return self._counted(lambda: self._judge.text(prompt, tokens))

    def continuation(self, before: str, text: str) -> float:
        """As a judge does. Raises Lost."""
        self._wait()
        return self._counted(lambda: self._judge.continuation(before, text))

    def embedding(self, text: str) -> NDArray[np.float32]:
        """As a model that embeds does. Raises Lost."""
        self._wait()
        return self._counted(lambda: self._judge.embedding(text))

    def _wait(self) -> None:
        if self._pace.wait(self._deadline, self._ending):
            return
        if self._ending.is_set():
            raise Lost("draining", "the process ends")
        raise Lost("late", "calls_per_minute leaves no turn within max_wait")

    def _counted(self, ask: Callable[[], Reply]) -> Reply:
        began = time.monotonic()
        try:
            return ask()
        finally:
            self._count(time.monotonic() - began)
