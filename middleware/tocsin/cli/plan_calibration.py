"""tocsin plan calibration"""

from __future__ import annotations

import json
from math import log
from typing import Annotated, Any, NamedTuple

import typer
from rich.console import Console

from tocsin.cli.bundle_traffic import responses_a_day
from tocsin.cli.tables import print_table
from tocsin.errors import ConfigError
from tocsin_calibration import CalibrationError, FalseAlarmLaw
from tocsin_calibration.dividing import responses_needed, size_of_reference
from tocsin_calibration.online.power import HORIZON, SEED, STEP, alarms_needed, delay_law, quantile, simulated
from tocsin_calibration.thresholds.terms import DEFAULT_CONFIDENCE, Guarantee
from tocsin_calibration.wording import percent

EXCESSES = (1.5, 2.0, 3.0, 5.0)
SIZES = (1_000, 10_000, 100_000)
SIMULATION_RUNS, SIMULATION_HORIZON = 41, 10_000  # of the simulation, and its horizon


class Delay(NamedTuple):
    """After how many responses an excess is found, in half of all cases and in 95% of them; None beyond the horizon."""

    excess: float
    median: int | None
    of_95: int | None
    median_after_calm: int | None


class Size(NamedTuple):
    """What a calibration on so many responses can promise, at one alpha."""

    rows: int
    law: FalseAlarmLaw
    sure: float | None
    delays: list[Delay]


def calibration(
    alpha: Annotated[list[float] | None, typer.Option(help="A promised rate; once for each severity.")] = None,
    traffic: Annotated[
        str | None, typer.Option(help="A count and a time, such as 1e6/day: tells delays in time.")
    ] = None,
    rows: Annotated[list[int] | None, typer.Option(min=1, help="Recorded responses; may be repeated.")] = None,
    delta: Annotated[
        float, typer.Option(help="Probability that evidence ever pages by chance, as for tocsin rules.")
    ] = 0.01,
    on_average: Annotated[bool, typer.Option("--on-average", help="As for tocsin calibrate.")] = False,
    after_calm: Annotated[
        int | None,
        typer.Option(min=1, help="Also simulate a change that comes after so many calm responses (takes minutes)."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Compute how many responses a calibration takes, and after how many responses which excess of alarms is found."""
    alphas = alpha or [0.05, 0.01]
    if not 0 < delta < 1:
        raise ConfigError(f"--delta: a probability lies between 0 and 1, not {delta:g}")
    per_day = None if traffic is None else responses_a_day(traffic)
    terms, limit = Guarantee.chosen(None, on_average), log(len(alphas) / delta)
    needed = {a: (responses_needed(a, Guarantee()), responses_needed(a, Guarantee(DEFAULT_CONFIDENCE))) for a in alphas}
    plans = {
        a: [_size(size, a, terms, limit, after_calm) for size in rows or _sizes(needed[a][not on_average])]
        for a in alphas
    }
    if as_json:
        typer.echo(json.dumps(_facts(plans, needed, delta, per_day, after_calm), indent=1))
        return
    console = Console(highlight=False, soft_wrap=True)
    for a, sizes in plans.items():
        average, confident = needed[a]
        console.print(
            f"alpha {percent(a)}: {average:,} responses promise it on average, {confident:,} with confidence "
            f"{percent(DEFAULT_CONFIDENCE)}"
        )
        _show(console, sizes, per_day, after_calm)
    console.print(
        f"found: the evidence pages (delta {delta:g}, shared by {len(alphas)} severities) in half of all cases (in "
        f"brackets: 95%), when traffic alarms so many times as often as expected from the start of a process on; -: "
        f"not within {HORIZON:,} responses. Exact, by the first window alone: later ones only find it sooner."
    )
    if after_calm is not None:
        console.print(
            f"after calm: the median of {SIMULATION_RUNS} simulated runs (seed {SEED}), a look every {STEP} "
            f"responses, when the change comes after {after_calm:,} calm responses; "
            f"-: not within {SIMULATION_HORIZON:,} responses."
        )


def _sizes(needed: int) -> list[int]:
    return [needed, *(size for size in SIZES if size > needed)]


def _size(rows: int, alpha: float, terms: Guarantee, limit: float, after_calm: int | None) -> Size:
    carrying = rows - size_of_reference(rows)
    if carrying < terms.required_size(alpha):
        raise CalibrationError(
            f"{rows:,} responses cannot carry alpha = {alpha:g}: {responses_needed(alpha, terms):,} are needed"
        )
    law = FalseAlarmLaw(carrying, terms.rank(carrying, alpha))
    least = alarms_needed(law, limit)
    laws = delay_law(least, [min(1.0, excess * law.mean_rate) for excess in EXCESSES])
    delays = []
    for excess, found_within in zip(EXCESSES, laws, strict=True):
        median = None
        if after_calm is not None:
            median = simulated(law, limit, excess, after_calm, SIMULATION_RUNS, SIMULATION_HORIZON)[
                SIMULATION_RUNS // 2
            ]
        delays.append(Delay(excess, quantile(found_within, 0.5), quantile(found_within, 0.95), median))
    return Size(rows, law, terms.sure(carrying, alpha), delays)


def _show(console: Console, sizes: list[Size], per_day: float | None, after_calm: int | None) -> None:
    columns = ["recorded", "carry it", "confidence", "expected rate"]
    columns += [f"{excess:g} times found after" for excess in EXCESSES]
    if after_calm is not None:
        columns += [f"{excess:g} times, after calm" for excess in EXCESSES]
    table = [
        (
            f"{size.rows:,}",
            f"{size.law.n:,}",
            "on average" if size.sure is None else percent(size.sure),
            percent(size.law.mean_rate),
            *(f"{_count(delay.median)} ({_count(delay.of_95)}){_time(delay.median, per_day)}" for delay in size.delays),
            *(
                f"{_count(delay.median_after_calm)}{_time(delay.median_after_calm, per_day)}"
                for delay in size.delays
                if after_calm is not None
            ),
        )
        for size in sizes
    ]
    print_table(console, columns, table, right=True)


def _count(responses: int | None) -> str:
    return "-" if responses is None else f"{responses:,}"


def _time(responses: int | None, per_day: float | None) -> str:
    """How long so many responses take."""
    if responses is None or not per_day:
        return ""
    seconds = responses / per_day * 86_400
    for unit, length in (("days", 86_400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= 2 * length:
            return f", {seconds / length:.0f} {unit}"
    return f", {seconds:.0f} s" if seconds >= 1 else ", under 1 s"


def _facts(
    plans: dict[float, list[Size]],
    needed: dict[float, tuple[int, int]],
    delta: float,
    per_day: float | None,
    after_calm: int | None,
) -> dict[str, Any]:
    return {
        "delta": delta,
        "responses_a_day": per_day,
        "alphas": {
            str(alpha): {
                "needed_on_average": needed[alpha][0],
                "needed_with_confidence": needed[alpha][1],
                "sizes": [
                    {
                        "rows": size.rows,
                        "carrying": size.law.n,
                        "confidence": size.sure,
                        "expected_rate": size.law.mean_rate,
                        "rate_interval": size.law.rate_interval(),
                        "delays": [delay._asdict() for delay in size.delays],
                    }
                    for size in sizes
                ],
            }
            for alpha, sizes in plans.items()
        },
        "horizon": HORIZON,
        "simulated": {
            "seed": SEED,
            "runs": SIMULATION_RUNS,
            "calm": after_calm,
            "horizon": SIMULATION_HORIZON,
            "step": STEP,
        },
    }
