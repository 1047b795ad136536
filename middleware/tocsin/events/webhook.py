"""CloudEvents over HTTP, in the structured mode, signed as Standard Webhooks are (standardwebhooks.com)."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import time
from pathlib import Path

from tocsin.configuration.events import WebhookTarget
from tocsin.errors import ConfigError
from tocsin.events.post import post

JSON_EVENT = "application/cloudevents+json; charset=utf-8"


class Webhook:
    """POSTs one event in each request."""

    def __init__(self, target: WebhookTarget) -> None:
        self._url, self._timeout = str(target.webhook), target.timeout.total_seconds()
        self._key = None if target.secret is None else _key(target.secret)

    def send(self, line: bytes) -> None:
        """Deliver one event. Raises Rejected, or OSError when it is worth trying again."""
        body = line.rstrip(b"\n")
        headers = {"Content-Type": JSON_EVENT, "User-Agent": "tocsin"}
        if self._key is not None:
            headers |= signed(self._key, str(json.loads(body)["id"]), int(time.time()), body)
        post(self._url, body, headers, self._timeout)

    def close(self) -> None:
        """Nothing is kept."""


def signed(key: bytes, identifier: str, seconds: int, body: bytes) -> dict[str, str]:
    """The headers that prove who sent a body, and when."""
    content = f"{identifier}.{seconds}.".encode() + body
    digest = base64.b64encode(hmac.digest(key, content, hashlib.sha256)).decode()
    return {"webhook-id": identifier, "webhook-timestamp": str(seconds), "webhook-signature": f"v1,{digest}"}


def _key(path: Path) -> bytes:
    try:
        text = path.read_text("utf-8").strip()
        return base64.b64decode(text.removeprefix("whsec_"), validate=True)
    except OSError as error:
        raise ConfigError(f"events: {path}: the secret cannot be read ({error.strerror})") from None
    except (binascii.Error, ValueError):
        raise ConfigError(f"events: {path}: it must hold whsec_ and base64, as of `openssl rand -base64 32`") from None
