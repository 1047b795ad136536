"""tocsin promise"""

from __future__ import annotations

import hashlib
import json
import time
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from rich.console import Console

from tocsin.cli.evaluation_tables import show_evaluation
from tocsin.cli.from_options import command
from tocsin.cli.output_files import require_writable
from tocsin.cli.promise_options import PromiseOptions
from tocsin.cli.tables import print_table
from tocsin.errors import ConfigError
from tocsin.offline.score_promise import (
    Parts,
    calibrated,
    divide,
    evaluated,
    outcome_at,
    scorer_of,
    signal_name,
    thresholds_of,
)
from tocsin.recording.reading import require_pyarrow
from tocsin.recording.score_table import TABLES, ScoreTable, read_scores
from tocsin_calibration import Bundle, CalibrationError, Promise
from tocsin_detectors import Scorer


@command(PromiseOptions)
def promise(options: PromiseOptions) -> None:
    """Give a score that you already have a threshold with a promised false-alarm rate, without any relay."""
    _check(options)
    console = Console(highlight=False, soft_wrap=True)
    rows = _rows(options, console)
    parts = divide(rows, options.share, options.seed)
    scorer = scorer_of(signal_name(options.score), rows, lower_is_worse=options.lower_is_worse)
    promised = calibrated(
        scorer,
        rows,
        parts.calibration,
        _alphas(options),
        confidence=options.confidence,
        on_average=options.on_average,
        seed=options.seed,
    )
    bundle = None if options.out is None else _written(options, scorer, promised, len(parts.calibration), options.out)
    safe = len(parts.calibration) + len(parts.fresh)
    subject = "a bundle would promise" if bundle is None else f"{options.out} ({bundle.digest[:19]}) promises"
    console.print(f"{subject}, on {len(parts.calibration):,} of {safe:,} safe rows of {options.table.name}:")
    facts = _say(console, promised, options)
    if len(parts.fresh):
        console.print(f"\non the {len(parts.fresh):,} safe rows that it has not seen:")
        evaluation = evaluated(scorer, promised, rows, parts)
        show_evaluation(console, evaluation)
        facts["evaluation"] = evaluation.facts()
    facts |= _compare(console, rows, parts, promised, options)
    if options.as_json is not None:
        digest = None if bundle is None else bundle.digest
        options.as_json.write_text(json.dumps({"bundle": digest, **facts}, indent=1) + "\n")
        console.print(f"wrote {options.as_json}")
    if bundle is None:
        console.print("\nnothing was written: name the bundle with --out")
        return
    console.print(
        f"\nnext: tocsin watch LOG.jsonl {options.out} --score {options.score}; or serve it: bundle: {options.out}, "
        f"signals: {{{signal_name(options.score)}: trailing_metadata.KEY}}"
    )


def _check(options: PromiseOptions) -> None:
    """Refuse what cannot succeed before any file is read. Raises ConfigError, RecordingError or CalibrationError."""
    if options.out is not None:
        require_writable(options.out)
    for name in ("onnx", "spox"):
        if find_spec(name) is None:
            raise ConfigError(f"writing a bundle needs {name}: pip install 'tocsin[fit]'")
    if options.table.suffix in TABLES:
        require_pyarrow()
    if options.warning is not None and options.alpha > options.warning:
        raise CalibrationError(
            f"critical alarms are the rarer ones: --alpha {options.alpha:g} exceeds --warning {options.warning:g}"
        )


def _alphas(options: PromiseOptions) -> dict[str, float]:
    """The false-alarm rate of each severity, the largest first."""
    if options.warning is None:
        return {"critical": options.alpha}
    return {"warning": options.warning, "critical": options.alpha}


def _rows(options: PromiseOptions, console: Console) -> ScoreTable:
    """The table's rows; what is left out is printed. Raises CalibrationError where none is left."""
    rows = read_scores(
        options.table,
        options.score,
        label=options.label,
        session=options.session,
        group=options.group,
        leave_out_broken=options.leave_out_broken,
    )
    for reason, count in rows.left_out.items():
        console.print(f"left out {count:,} rows that serving passes unscored ({reason})")
    if not len(rows.scores):
        raise CalibrationError(f"{options.table}: holds no scores")
    return rows


def _written(options: PromiseOptions, scorer: Scorer, promised: Promise, rows: int, out: Path) -> Bundle:
    """Write the bundle to a file. It records the origin of its promise: `rows` of the table."""
    calibration = {
        "timestamp": time.time(),
        "tocsin": version("tocsin"),
        "rows": rows,
        "share": options.share,
        "seed": options.seed,
        "sessions": options.session,
        "files": {hashlib.sha256(options.table.read_bytes()).hexdigest(): options.table.name},
    }
    signal = signal_name(options.score)
    described = ({"name": "external", "reads": [signal], "source": "a score of your own", "cost_us": 0.0},)
    return Bundle(scorer, promised, options.model, described, {"calibrated": calibration}).write(out)


def _say(console: Console, promised: Promise, options: PromiseOptions) -> dict[str, object]:
    """Print what is promised, by which law, and the thresholds. Returns the same as data."""
    for line in str(promised).splitlines():
        console.print(f"  {line}")
    if promised.groups:
        console.print(f"  each on its own for: {', '.join(promised.groups)}")
    if promised.pooled:
        console.print(f"  too few rows for a promise of their own: {', '.join(promised.pooled)}")
    by = "below" if options.lower_is_worse else "above"
    limits = thresholds_of(promised, lower_is_worse=options.lower_is_worse)
    for name, value in limits.items():
        law = promised.laws[name]
        console.print(
            f"  threshold, {name}: alarm where {options.score} is {by} {value:.6g}; the rate's law is "
            f"Beta({law.n + 1 - law.k}, {law.k}), of {law.n:,} {promised.unit}"
        )
    return {
        "promise": str(promised),
        "limits": limits,
        "laws": {name: {"n": law.n, "k": law.k} for name, law in promised.laws.items()},
    }


def _compare(
    console: Console, rows: ScoreTable, parts: Parts, promised: Promise, options: PromiseOptions
) -> dict[str, object]:
    """Print what each threshold does on the same rows. Returns the same as data, nothing where no row is left."""
    lower_is_worse = options.lower_is_worse
    limits = {
        f"promised, {name}": value for name, value in thresholds_of(promised, lower_is_worse=lower_is_worse).items()
    }
    if options.threshold is not None:
        limits["in use"] = options.threshold
    outcomes = {name: outcome_at(rows, parts, value, lower_is_worse=lower_is_worse) for name, value in limits.items()}
    if not outcomes or not (len(parts.fresh) or len(parts.bad)):
        return {}
    console.print()
    sign = "<" if lower_is_worse else ">"
    columns = (
        "threshold",
        options.score,
        f"false alarms, safe {promised.unit}",
        "99% interval",
        "caught",
        "99% interval",
    )
    print_table(
        console,
        columns,
        [
            (
                name,
                f"{sign} {outcome.threshold:.6g}",
                _share(outcome.alarms, outcome.n),
                _interval(outcome.false_alarms, outcome.n),
                _share(outcome.caught, outcome.m),
                _interval(outcome.detection, outcome.m),
            )
            for name, outcome in outcomes.items()
        ],
    )
    return {"thresholds": {name: outcome._asdict() for name, outcome in outcomes.items()}}


def _share(count: int, n: int) -> str:
    return f"{count:,} of {n:,} ({count / n:.2%})" if n else "-"


def _interval(bounds: tuple[float, float], n: int) -> str:
    return f"{bounds[0]:.2%} to {bounds[1]:.2%}" if n else "-"
