"""From a call's messages to its model and the raw contents of its signals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Final

from tocsin.judgement.call import Call, Read
from tocsin.judgement.message_run import MessageRun
from tocsin.judgement.model import GuardedModel
from tocsin.protocols.method import Opened
from tocsin.protocols.rows import Family
from tocsin.unscored import Unscored

OTHER: Final = "other"  # the label of models that are not configured
NAMED: Final = 5  # configured models that a message names
# Expected of a message that carries nothing.
EXPECTED_OF_EMPTY: Final = ("missing_signal", "unknown_model", "unmatched_request", "no_bundle")


class CallReader:
    """Reads calls by the models of one configuration; `of_method` are the models that guard each method.

    With `needs_bundle`, calls of models without a bundle cannot be scored; without it (recording), their signals are
    read all the same. `default_model` is the name that a call has before its model is known.
    """

    def __init__(
        self,
        models: Mapping[str, GuardedModel],
        of_method: Mapping[str, Sequence[GuardedModel]],
        *,
        needs_bundle: bool,
    ) -> None:
        self._models = models
        self._of_method = of_method
        self._needs_bundle = needs_bundle
        self.has_no_bundle = needs_bundle and all(model.scoring is None for model in models.values())
        self.default_model = next(iter(models)) if len(models) == 1 else OTHER

    def read(self, call: Call) -> tuple[Family, Read] | None:
        """Read what is to be scored, and set the call's model and version. Raises Unscored.

        Returns None for a piece of a stream that carries nothing to judge: it summarises what was judged before, or has
        neither content nor signals.
        """
        if isinstance(call, MessageRun) and call.reading is not None:
            family, raws = call.reading
            return family, (call, call.responses, raws)
        call.model = self.default_model
        response = call.response
        if call.fault is not None:
            raise Unscored(*call.fault)
        if response is None:
            raise Unscored("no_response", "the call has no response message")
        opened = [call.reads.open(response, call.request)]
        if call.parent is None:
            return self._signals_of(call, opened)
        if call.earlier:
            opened = [*(call.reads.open(message, call.request) for message in call.earlier), *opened]
        try:
            return self._signals_of(call, opened)
        except Unscored as why:
            if why.reason not in EXPECTED_OF_EMPTY or not all(part.empty for part in opened):
                raise
            return None

    def model_of(self, call: Call) -> str:
        """The name of a call's model, as far as it can be known before the call is judged."""
        if call.model:
            return call.model
        served = self._of_method.get(call.method, ())
        name = call.hint
        if not name and len(served) > 1 and call.response is not None:
            with suppress(Unscored):
                name = call.reads.open(call.response, call.request).model
        if name in self._models:
            return name
        return served[0].name if len(served) == 1 else OTHER

    def _signals_of(self, call: Call, opened: Sequence[Opened]) -> tuple[Family, Read] | None:
        """Find the model of a response, and read its signals. Raises Unscored."""
        first = opened[0]
        name = first.model or call.hint
        model = self._models.get(name) or self._only_model_of(call, name)
        call.model = model.name
        version_key = call.reads.version_key
        call.version = call.keys.get(version_key, "") if version_key else first.version
        if model.scoring is None and self._needs_bundle:
            raise Unscored("no_bundle", f"model '{model.name}' has no bundle")
        parent, is_one = call.parent, len(opened) == 1  # mostly so
        if parent is not None:
            call.sequence = opened[-1].sequence
            if call.sequence in parent.started_sequences and (
                first.is_summary if is_one else all(part.is_summary for part in opened)
            ):
                call.is_summary = True
                return None
        if call.is_unmatched and model.reads_request(call.method):
            raise Unscored("unmatched_request", "it cannot be matched with one of the stream's requests")
        if parent is not None and not (first.empty if is_one else all(part.empty for part in opened)):
            parent.started_sequences.add(call.sequence)
        rows, family, raws = model.read(call, opened)
        return family, (call, rows, raws)

    def _only_model_of(self, call: Call, name: str) -> GuardedModel:
        """The model of a call that names no configured one, where only one is possible. Raises Unscored."""
        served = self._of_method.get(call.method, ())
        if not name and len(served) == 1:
            return served[0]
        call.model = OTHER
        names = ", ".join(model.name for model in served[:NAMED])
        hint = f"; of this protocol there are: {names}" if names else ""
        raise Unscored(
            "unknown_model", f"model '{name}' is not configured{hint}" if name else "the call names no model"
        )
