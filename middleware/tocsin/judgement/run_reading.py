"""Reads runs of messages as rows, and takes out of them what has to be read one by one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from tocsin.grpc_wire.deframer import PREFIX_SIZE
from tocsin.judgement.call import Call
from tocsin.judgement.message_run import MessageRun
from tocsin.judgement.model import GuardedModel
from tocsin.protocols.alike import AlikeRows, Template, Templates

MOST_LEARNT: Final = 4  # structures in one run,
MOST_SPLITS: Final = 2  # and messages read by themselves
MOST_STRANGE: Final = 16  # messages read by themselves after which a stream has no more runs


class RunReader:
    """Reads the runs of a guard's models, by templates of the messages that it has seen."""

    def __init__(self, models: Mapping[str, GuardedModel], of_method: Mapping[str, Sequence[GuardedModel]]) -> None:
        self._models, self._of_method = models, of_method
        self._templates: dict[tuple[str, str], Templates] = {}  # by method, and the model that a call names

    def read(self, run: MessageRun) -> list[Call]:
        """What to judge in the place of a run: itself, once it is read; or parts of it, and single messages that cannot
        be read with others.
        """
        if run.hint and run.hint not in self._models:
            return self._apart(run)
        templates = self._templates.get((run.method, run.hint))
        if templates is None:
            templates = self._templates[run.method, run.hint] = Templates()
        calls: list[Call] = []
        learnt = splits = 0
        while True:
            rows = templates.read(run.content, run.sizes)
            if not isinstance(rows, int):
                calls.append(_read(run, rows))
                return calls
            if learnt < MOST_LEARNT and templates.may_learn:
                learnt += 1
                message = run.message(rows)
                template = self._template(run, message) if templates.fitting(message) is None else None
                if template is not None:
                    templates.learn(template)
                    continue
            stream, messages = run.stream, len(run.sizes)
            if splits == MOST_SPLITS:
                calls += self._apart(run)
                return calls
            splits += 1
            if rows:
                calls += self._head(templates, run.part(0, rows))
            calls += self._apart(run.part(rows, rows + 1))
            stream.pending -= 1
            if rows + 1 == messages:
                return calls
            run = run.part(rows + 1, messages)

    def _head(self, templates: Templates, run: MessageRun) -> list[Call]:
        """The messages before one that has to be read by itself."""
        rows = templates.read(run.content, run.sizes)
        return self._apart(run) if isinstance(rows, int) else [_read(run, rows)]

    def _apart(self, run: MessageRun) -> list[Call]:
        """All messages of a run by themselves."""
        stream = run.stream
        stream.strange += len(run.sizes)
        if stream.strange > MOST_STRANGE:
            stream.takes_runs = False
        return _pieces(run)

    def _template(self, run: MessageRun, message: bytes) -> Template | None:
        """The template of one of a run's messages, None where it has none."""
        content = message[PREFIX_SIZE:]
        try:
            for _ in range(2):  # the first has the method remember the structure
                opened = run.reads.open(content, run.request)
            served = self._of_method.get(run.method, ())
            name = opened.model or run.hint
            model = self._models.get(name) or (served[0] if not name and len(served) == 1 else None)
            return None if model is None else model.template(run, opened, message)
        except Exception:  # it is read again by itself, and then says why it cannot be
            return None


def _pieces(run: MessageRun) -> list[Call]:
    """All messages of a run as pieces of its stream, in its place."""
    pieces = run.apart()
    run.stream.pending -= 1
    return pieces


def _read(run: MessageRun, rows: AlikeRows) -> MessageRun:
    """The run with what was read of it."""
    run.reading = rows.family, rows.raws
    run.model, run.sequence = rows.family.model.name, rows.sequence
    key = run.reads.version_key
    run.version = run.keys.get(key, "") if key else rows.version
    run.stream.started_sequences.add(rows.sequence)
    return run
