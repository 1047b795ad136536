"""tocsin promise"""

from __future__ import annotations

import hashlib
import json
import time
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from tocsin.cli.evaluate import show
from tocsin.cli.output_files import require_writable
from tocsin.cli.tables import print_table
from tocsin.errors import ConfigError
from tocsin.offline.score_promise import (
    Outcome,
    calibrated,
    divide,
    evaluated,
    outcome_at,
    scorer_of,
    signal_name,
    thresholds_of,
)
from tocsin.recording.reading import require_pyarrow
from tocsin.recording.score_table import KINDS, TABLES, read_scores
from tocsin_calibration import Bundle, CalibrationError, Promise


def promise(
    table: Annotated[Path, typer.Argument(help=f"Scores, a row for each response: {KINDS}.")],
    score: Annotated[str, typer.Option(help="The column of the score, or in JSON its dotted path.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The bundle to write.")],
    alpha: Annotated[
        float, typer.Option(min=0, max=0.5, help="The false-alarm rate to promise, of `critical`.")
    ] = 0.01,
    warning: Annotated[
        float | None, typer.Option(min=0, max=0.5, help="A second, larger false-alarm rate, of `warning`.")
    ] = None,
    label: Annotated[
        str | None, typer.Option(help="The column that says which responses should alarm; all others are safe.")
    ] = None,
    session: Annotated[
        str | None, typer.Option(help="Promise for whole sessions, which this column tells apart, rows in their order.")
    ] = None,
    group: Annotated[str | None, typer.Option(help="A promise for each value of this column.")] = None,
    lower_is_worse: Annotated[
        bool, typer.Option("--lower-is-worse", help="A low score alarms, as of a safety or a log-probability.")
    ] = False,
    threshold: Annotated[
        float | None, typer.Option(help="A threshold in use: its false alarms are shown beside the promised one's.")
    ] = None,
    confidence: Annotated[
        float | None, typer.Option(help="Promise with this confidence; else with 0.95 where the rows suffice.")
    ] = None,
    on_average: Annotated[
        bool, typer.Option("--on-average", help="Promise the rate on average over calibrations instead.")
    ] = False,
    share: Annotated[
        float, typer.Option(min=0.01, max=1.0, help="The share of safe rows to calibrate on; the others check it.")
    ] = 0.7,
    leave_out_broken: Annotated[
        bool, typer.Option("--leave-out-broken", help="Leave rows out that hold no score: nothing, NaN, words.")
    ] = False,
    model: Annotated[str, typer.Option(help="The model that the bundle is for.")] = "",
    seed: Annotated[int, typer.Option(help="Decides which rows are calibrated on.")] = 0,
    as_json: Annotated[Path | None, typer.Option("--json", help="Write all figures to this file.")] = None,
) -> None:
    """Give a score that you have already a threshold with a promised false-alarm rate, without any relay."""
    require_writable(out)
    for name in ("onnx", "spox"):
        if find_spec(name) is None:
            raise ConfigError(f"writing a bundle needs {name}: pip install 'tocsin[fit]'")
    if table.suffix in TABLES:
        require_pyarrow()
    if warning is not None and alpha > warning:
        raise CalibrationError(f"critical alarms are the rarer ones: --alpha {alpha:g} exceeds --warning {warning:g}")
    alphas = {"critical": alpha} if warning is None else {"warning": warning, "critical": alpha}
    console = Console(highlight=False, soft_wrap=True)
    rows = read_scores(
        table, score, label=label, session=session, group=group, leave_out_broken=leave_out_broken
    )  # fmt: skip
    for reason, count in rows.left_out.items():
        console.print(f"left out {count:,} rows that serving passes unscored ({reason})")
    if not len(rows.scores):
        raise CalibrationError(f"{table}: holds no scores")
    parts = divide(rows, share, seed)
    signal = signal_name(score)
    scorer = scorer_of(signal, rows, lower_is_worse=lower_is_worse)
    promised = calibrated(
        scorer, rows, parts.calibration, alphas, confidence=confidence, on_average=on_average, seed=seed
    )
    calibration = {
        "timestamp": time.time(),
        "tocsin": version("tocsin"),
        "rows": len(parts.calibration),
        "share": share,
        "seed": seed,
        "sessions": session,
        "files": {hashlib.sha256(table.read_bytes()).hexdigest(): table.name},
    }
    described = ({"name": "external", "reads": [signal], "source": "a score of your own", "cost_us": 0.0},)
    bundle = Bundle(scorer, promised, model, described, {"calibrated": calibration}).write(out)
    safe = len(parts.calibration) + len(parts.fresh)
    console.print(
        f"{out} ({bundle.digest[:19]}) promises, on {len(parts.calibration):,} of {safe:,} safe rows of {table.name}:"
    )
    facts = _say(console, promised, score, lower_is_worse=lower_is_worse)
    if len(parts.fresh):
        console.print(f"\non the {len(parts.fresh):,} safe rows that it has not seen:")
        evaluation = evaluated(scorer, promised, rows, parts)
        show(console, evaluation)
        facts["evaluation"] = evaluation.facts()
    limits = {
        f"promised, {name}": value for name, value in thresholds_of(promised, lower_is_worse=lower_is_worse).items()
    }
    if threshold is not None:
        limits["in use"] = threshold
    outcomes = {name: outcome_at(rows, parts, value, lower_is_worse=lower_is_worse) for name, value in limits.items()}
    if outcomes and (len(parts.fresh) or len(parts.bad)):
        console.print()
        _compare(console, outcomes, score, promised.unit, lower_is_worse=lower_is_worse)
        facts["thresholds"] = {name: outcome._asdict() for name, outcome in outcomes.items()}
    if as_json is not None:
        as_json.write_text(json.dumps({"bundle": bundle.digest, **facts}, indent=1) + "\n")
        console.print(f"wrote {as_json}")
    console.print(
        f"\nnext: tocsin watch LOG.jsonl {out} --score {score}; or serve it: bundle: {out}, "
        f"signals: {{{signal}: trailing_metadata.KEY}}"
    )


def _say(console: Console, promised: Promise, score: str, *, lower_is_worse: bool) -> dict[str, object]:
    """Print what is promised, by which law, and the thresholds; the same as facts."""
    for line in str(promised).splitlines():
        console.print(f"  {line}")
    if promised.groups:
        console.print(f"  each on its own for: {', '.join(promised.groups)}")
    if promised.pooled:
        console.print(f"  too few rows for a promise of their own: {', '.join(promised.pooled)}")
    by = "below" if lower_is_worse else "above"
    limits = thresholds_of(promised, lower_is_worse=lower_is_worse)
    for name, value in limits.items():
        law = promised.laws[name]
        console.print(
            f"  threshold, {name}: alarm where {score} is {by} {value:.6g}; the rate's law is "
            f"Beta({law.n + 1 - law.k}, {law.k}), of {law.n:,} {promised.unit}"
        )
    return {
        "promise": str(promised),
        "limits": limits,
        "laws": {name: {"n": law.n, "k": law.k} for name, law in promised.laws.items()},
    }


def _compare(console: Console, outcomes: dict[str, Outcome], score: str, unit: str, *, lower_is_worse: bool) -> None:
    """Print what each threshold does on the same rows."""
    sign = "<" if lower_is_worse else ">"
    columns = ("threshold", score, f"false alarms, safe {unit}", "99% interval", "caught", "99% interval")
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


def _share(count: int, n: int) -> str:
    return f"{count:,} of {n:,} ({count / n:.2%})" if n else "-"


def _interval(bounds: tuple[float, float], n: int) -> str:
    return f"{bounds[0]:.2%} to {bounds[1]:.2%}" if n else "-"
