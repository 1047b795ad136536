"""Accepting the verdict that another Tocsin, nearer to the model, has written, instead of scoring again."""

from __future__ import annotations

from tocsin.judgement.call import Call
from tocsin.judgement.call_reader import OTHER
from tocsin.judgement.guard import Guard
from tocsin.unscored import REASONS
from tocsin.verdict import Verdict

USUAL_SEVERITIES = ("warning", "critical")  # accepted where no bundle here names others


def accept_verdict(guard: Guard, call: Call, text: str, *, failed: bool = False) -> bool:
    """Give a call the verdict in `text` if this guard can use it; whether it did.

    This guard's own configuration decides what follows: `on_alarm` for an alarm, `fail` for a response that was not
    scored, which is counted here as well. Where the call has `failed`, nothing follows: its verdict already says what
    was done. The call does not change, and the answer is False, where the text is no verdict or names a model, severity
    or reason that is unknown here.
    """
    try:
        verdict = Verdict.from_metadata(text)
    except ValueError:
        return False
    model = guard.models.get(verdict.model)
    if verdict.unscored is not None:
        if verdict.unscored not in REASONS or (model is None and verdict.model != OTHER):
            return False
        call.model, call.version = verdict.model, verdict.version
        if failed:
            call.verdict = verdict
        else:
            guard.give_up(call, verdict.unscored, "the Tocsin that wrote its verdict did not score it")
        return True
    if model is None or call.method not in model.served:
        return False
    usual = (*USUAL_SEVERITIES, *model.config.on_alarm)
    names = usual if model.scoring is None else model.scoring.promise.alphas
    severities = [name for name in (verdict.severity, *verdict.severities) if name is not None]
    if any(severity not in names for severity in severities) or (severities and verdict.severity is None):
        return False
    call.model, call.version = verdict.model, verdict.version
    if not failed:
        verdict.action = model.policy.action(verdict.severity, severities, verdict.weighed, call)
    call.verdict = verdict
    return True
