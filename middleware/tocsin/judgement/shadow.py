"""Candidate bundles: what they would have said of the responses that the live bundle has judged."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence

from tocsin.judgement.call import Call
from tocsin.judgement.model import GuardedModel
from tocsin.protocols.rows import Stacking

log = logging.getLogger("tocsin")

FAILED = "failed"  # in place of a severity


def by_candidates(models: Mapping[str, GuardedModel], calls: Sequence[Call]) -> Iterator[tuple[Call, str | None]]:
    """For each judged call of a model that has a candidate: the call and the candidate's severity, None for no alarm,
    FAILED where it could not be scored.
    """
    for call in calls:
        model = models.get(call.model)
        verdict = call.verdict
        if model is None or model.shadow is None or verdict is None or verdict.unscored or call.response is None:
            continue
        candidate = model.shadow.scoring
        assert candidate is not None  # a shadow is made for its bundle
        try:
            opened = [call.reads.open(message, call.request) for message in (*call.earlier, call.response)]
            rows, family, raws = model.shadow.read(call, opened)
            stacking = Stacking(family, [raws], rows)
            judged = candidate.judge(candidate.run(stacking.signals()), [(call, rows, raws)], model, stacking.signals)
        except Exception as error:
            log.debug("model %s: the shadow bundle failed: %s", model.name, error)
            yield call, FAILED
        else:
            yield call, candidate.promise.gravest(judged.severities)
