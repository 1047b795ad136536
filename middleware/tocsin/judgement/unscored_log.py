"""Warnings about calls that could not be scored, or that name no session or group, with repeated ones counted."""

from __future__ import annotations

import logging

from tocsin.configuration.model import ModelConfig
from tocsin.judgement.call import Call
from tocsin.log_throttle import LogThrottle, and_more
from tocsin.unscored import Unscored
from tocsin.verdict import Verdict

log = logging.getLogger("tocsin")


class UnscoredLog:
    """Writes the first warning of a model and reason, and counts those that follow within a minute."""

    def __init__(self) -> None:
        self._throttle = LogThrottle()
        self._keyless: set[tuple[str, str]] = set()  # models, and the key that a warning was about

    def forget_keyless(self) -> None:
        """Warn anew of calls that name no session or group: the configuration has changed."""
        self._keyless.clear()

    def warn_keyless(self, model: str, config: ModelConfig, counts: tuple[int, int]) -> None:
        """Warn once of calls that name no session, or no group; `counts` are how many did not."""
        keys = ("session", config.session), ("group", config.group)
        for (what, key), count in zip(keys, counts, strict=True):
            if count and (model, what) not in self._keyless:
                self._keyless.add((model, what))
                instead = "as a session of its own" if what == "session" else "by the pooled promise"
                log.warning(
                    "model %s: a call names no %s (%s is missing or empty) and is judged %s; "
                    "tocsin_keyless_calls_total counts all of them",
                    model,
                    what,
                    key,
                    instead,
                )

    def warn_unscored(self, call: Call, verdict: Verdict, why: Unscored) -> None:
        """Warn of a response that passes unscored, or is refused for that."""
        if why.reason == "no_bundle":
            return  # the log says so when Tocsin starts
        model = verdict.model
        if (suppressed := self._throttle.admit(model, why.reason)) is None:
            return
        passed = "refused" if verdict.action == "block" else "passed"
        log.warning(
            "model %s: response %s unscored (%s): %s%s",
            model,
            passed,
            why.reason,
            why,
            and_more(suppressed),
            extra={
                "model": model,
                "reason": why.reason,
                "method": call.method,
                "trace_id": call.trace,
                "kept": suppressed,
            },
        )
