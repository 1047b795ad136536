"""Taking the verdict that a Tocsin behind this one has made, instead of scoring again."""

from __future__ import annotations

from tocsin.judgement.call import Call
from tocsin.judgement.guard import OTHER, Guard
from tocsin.unscored import REASONS
from tocsin.verdict import Verdict

USUAL_SEVERITIES = ("warning", "critical")  # where there is no bundle here that names them


def accept_verdict(guard: Guard, call: Call, text: str, *, failed: bool = False) -> bool:
    """Give a call the verdict that was written behind, if it is one that this guard can go by.

    What is done about it is for this guard's own configuration to say: `on_alarm` about an alarm, `fail` about a
    response that was not scored, which is counted here as well. A call that has `failed` has nothing to be acted upon:
    its verdict says what was done behind. False where the text is no verdict, or speaks of a model, a severity or a
    reason that is not known here: then nothing of the call has changed.
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
            guard.give_up(call, verdict.unscored, "it was not scored behind, where its verdict was made")
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
