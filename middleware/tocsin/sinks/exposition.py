"""Samples in the formats that Prometheus reads. Frequent samples are written as text here, the others by
prometheus-client.

A thousand models are a hundred thousand lines. The library takes microseconds for one; here it is a tenth of that, and
what has not changed since the last scrape is not written again.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.samples import Exemplar
from prometheus_client.samples import Sample as Line
from prometheus_client.utils import floatToGoString

from tocsin.sinks.families import FAMILIES, Buckets, Family, Sample
from tocsin.sinks.protobuf import CONTENT_TYPE, asked_for, delimited

END = b"# EOF\n"
PLAIN = 1e6  # numbers that are less Python writes as Go does
Blocks = Mapping[Family, str]  # lines of some samples, by family
_Series = tuple[tuple[str, ...], Sequence[str], bool]  # labels, a histogram's bounds, whether it has exemplars


class Shown(Protocol):
    """What can be shown as blocks of lines, or as samples."""

    def blocks(self, *, openmetrics: bool) -> Iterable[Blocks]:
        """The lines of all samples now."""
        ...

    def samples(self) -> Iterable[Sample]:
        """All samples now."""
        ...


class Exposition:
    """Answers scrapes: `shown` gives the frequent samples, `rest` the others."""

    def __init__(self, shown: Shown, rest: CollectorRegistry) -> None:
        self._shown, self._rest = shown, rest

    def answer(self, accept: str, encodings: str) -> tuple[list[tuple[str, str]], bytes]:
        """Headers and body, in the negotiated format and encoding."""
        if asked_for(accept):
            kind, content = CONTENT_TYPE, delimited(self._shown.samples(), self._rest.collect())
        else:
            kind, content = self._text(accept)
        headers = [("Content-Type", kind)]
        if "gzip" in encodings.lower():
            packer = zlib.compressobj(1, wbits=31)  # quickly: it repeats itself
            content = packer.compress(content) + packer.flush()
            headers.append(("Content-Encoding", "gzip"))
        return headers, content

    def _text(self, accept: str) -> tuple[str, bytes]:
        encoder, kind = choose_encoder(accept)
        openmetrics = kind.startswith("application/openmetrics-text")
        content = encoder(self._rest).removesuffix(END)
        content += join_blocks(self._shown.blocks(openmetrics=openmetrics), openmetrics=openmetrics)
        return kind, content + (END if openmetrics else b"")


def join_blocks(blocks: Iterable[Blocks], *, openmetrics: bool) -> bytes:
    """Blocks as one text, with the lines of each family together under its head."""
    by_family: dict[Family, list[str]] = {family: [] for family in FAMILIES}
    for block in blocks:
        for family, lines in block.items():
            by_family[family].append(lines)
    parts = []
    for family, texts in by_family.items():
        total = "_total" if family.kind == "counter" and not openmetrics else ""
        parts += [
            f"# HELP {family.name}{total} {family.description}\n# TYPE {family.name}{total} {family.kind}\n",
            *texts,
        ]
    return "".join(parts).encode()


class Writer:
    """Writes samples as lines. The text around a family's numbers is built once, and kept while its series are the
    same.
    """

    def __init__(self) -> None:
        self._templates: dict[Family, tuple[list[_Series], str]] = {}

    def lines(self, samples: Iterable[Sample], *, openmetrics: bool) -> dict[Family, str]:
        """Samples as lines, by family."""
        by_family: dict[Family, tuple[list[_Series], list[Any]]] = {}
        for family, labels, value, exemplar in samples:
            entry = by_family.get(family)
            if entry is None:
                entry = by_family[family] = ([], [])
            series, numbers = entry
            if not isinstance(value, Buckets):
                series.append((labels, (), False))
                numbers.append(_number(value) + (_exemplar(exemplar) if openmetrics and exemplar is not None else ""))
                continue
            linked = openmetrics and bool(value.exemplars)
            series.append((labels, value.bounds, linked))
            if linked:
                for at, count in enumerate(value.cumulative):
                    exemplar_at = value.exemplars.get(at)
                    numbers += (count, "" if exemplar_at is None else _exemplar(exemplar_at))
            else:
                numbers += value.cumulative
            numbers += (value.cumulative[-1], _number(value.total))
        return {
            family: self._around(family, series) % tuple(numbers) for family, (series, numbers) in by_family.items()
        }

    def _around(self, family: Family, series: list[_Series]) -> str:
        template = self._templates.get(family)
        if template is None or template[0] != series:
            template = self._templates[family] = series, "".join(_template(family, *entry) for entry in series)
        return template[1]


class KeptLines:
    """Lines of samples that change together, kept as they were written until there is news."""

    def __init__(self) -> None:
        self.written_at = 0.0  # on the monotonic clock
        self._writer = Writer()
        self._news, self._openmetrics = -1, False  # as of what was written last
        self._lines: Blocks | None = None

    def lines(
        self, samples: Callable[[], Iterable[Sample]], news: int, *, openmetrics: bool, cached: bool = False
    ) -> Blocks:
        """The lines of `samples`, written again if `news` is another number than the last time, and not if they may be
        older (`cached`).
        """
        lines = self._lines
        if lines is None or self._openmetrics != openmetrics or (self._news != news and not cached):
            lines = self._lines = self._writer.lines(samples(), openmetrics=openmetrics)
            self._news, self._openmetrics, self.written_at = news, openmetrics, time.monotonic()
        return lines


def metrics(samples: Iterable[Sample]) -> list[Metric]:
    """Samples as the client library's families."""
    by_family = {family: Metric(family.name, family.description, family.kind) for family in FAMILIES}
    for family, values, value, exemplar in samples:
        labels = dict(zip(family.labels, values, strict=True))
        add = by_family[family].samples.append
        if isinstance(value, Buckets):
            for at, (bound, count) in enumerate(zip((*value.bounds, "+Inf"), value.cumulative, strict=True)):
                add(Line(f"{family.name}_bucket", labels | {"le": bound}, count, None, value.exemplars.get(at)))
            add(Line(f"{family.name}_count", labels, value.cumulative[-1]))
            add(Line(f"{family.name}_sum", labels, value.total))
        else:
            name = f"{family.name}_total" if family.kind == "counter" else family.name
            add(Line(name, labels, value, None, exemplar))
    return list(by_family.values())


def _template(family: Family, values: tuple[str, ...], bounds: Sequence[str], linked: bool) -> str:
    """The line of a series with %s for numbers, and for exemplars of buckets if it is `linked`."""
    pairs = [f'{name}="{_escaped(text)}"'.replace("%", "%%") for name, text in zip(family.labels, values, strict=True)]
    pairs.sort()
    labels = f"{{{','.join(pairs)}}}" if pairs else ""
    if family.kind != "histogram":
        return f"{family.name}{'_total' if family.kind == 'counter' else ''}{labels} %s\n"
    number = "%d%s" if linked else "%d"
    buckets = [
        f"{family.name}_bucket{{{','.join([*pairs, f'le={chr(34)}{bound}{chr(34)}'])}}} {number}\n"
        for bound in (*bounds, "+Inf")
    ]
    return "".join(buckets) + f"{family.name}_count{labels} %d\n{family.name}_sum{labels} %s\n"


def _exemplar(exemplar: Exemplar) -> str:
    labels = ",".join(f'{name}="{_escaped(text)}"' for name, text in exemplar.labels.items())
    when = "" if exemplar.timestamp is None else f" {exemplar.timestamp:.3f}"
    return f" # {{{labels}}} {_number(exemplar.value)}{when}"


def _number(value: float) -> str:
    if isinstance(value, int):
        return str(value)
    if -PLAIN < value < PLAIN:
        return repr(float(value))
    return str(floatToGoString(value))  # type: ignore[no-untyped-call]


def _escaped(text: str) -> str:
    if "\\" in text or '"' in text or "\n" in text:
        return text.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
    return text
