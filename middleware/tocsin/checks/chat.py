"""A chat model behind an OpenAI-compatible API, asked for the likeliest first tokens of its answer."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from math import exp, inf, log
from typing import Any

from tocsin.errors import CheckError

ALTERNATIVES = 20  # the most that the API gives


class Chat:
    """One model at `url`, such as http://127.0.0.1:30000/v1; `key` is sent as a bearer token where it is not empty."""

    def __init__(self, url: str, model: str, key: str = "", timeout: float = 60.0) -> None:
        self._url, self._model, self._timeout = f"{url.rstrip('/')}/chat/completions", model, timeout
        self._headers = {"Content-Type": "application/json", "User-Agent": "tocsin"}
        if key:
            self._headers["Authorization"] = f"Bearer {key}"

    def first_token(self, prompt: str) -> dict[str, float]:
        """The likeliest first tokens of the answer, without blanks around them, and their log-probabilities.

        Raises CheckError when the model cannot be asked or does not tell.
        """
        body = json.dumps(first_token_request(self._model, prompt)).encode()
        request = urllib.request.Request(self._url, body, self._headers)
        try:
            with urllib.request.urlopen(request, timeout=self._timeout) as answer:
                reply: Any = json.load(answer)
            return likeliest_tokens(reply)
        except urllib.error.HTTPError as error:
            raise CheckError(f"{self._url}: HTTP {error.code}: {error.read(500).decode(errors='replace')}") from None
        except (OSError, ValueError) as error:
            raise CheckError(f"{self._url}: the model cannot be asked ({error})") from None
        except (KeyError, IndexError, TypeError):
            raise CheckError(
                f"{self._url}: the answer has no choices[0].logprobs.content[0].top_logprobs; the server must give "
                f"log-probabilities when asked for them"
            ) from None


def first_token_request(model: str, prompt: str) -> dict[str, Any]:
    """The body that asks `model` for the likeliest first tokens of its answer to one prompt."""
    return {
        "model": model, "messages": [{"role": "user", "content": prompt}], "max_tokens": 1,
        "temperature": 0, "logprobs": True, "top_logprobs": ALTERNATIVES,
    }  # fmt: skip


def likeliest_tokens(reply: Any) -> dict[str, float]:
    """The first tokens that a chat completion lists, without blanks around them, and their log-probabilities: those of
    tokens that differ in blanks alone are added up.

    Raises KeyError, IndexError, TypeError or ValueError where the completion lists none.
    """
    listed = reply["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
    by_token = {str(entry["token"]): float(entry["logprob"]) for entry in listed}
    probabilities: dict[str, float] = {}
    for token, logprob in by_token.items():
        probabilities[token.strip()] = probabilities.get(token.strip(), 0.0) + exp(min(logprob, 0.0))
    return {token: log(probability) if probability else -inf for token, probability in probabilities.items()}
