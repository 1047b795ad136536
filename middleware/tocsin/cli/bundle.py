"""tocsin bundle show|time|verify|fetch"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from tocsin.cli.bundle_time import time_
from tocsin.cli.bundle_traffic import Traffic, show_worth, traffic
from tocsin.fetching import SOURCES
from tocsin.fetching import fetch as fetch_bundle
from tocsin_calibration import Bundle, BundleError, Promise
from tocsin_calibration.thresholds.joint import meaning
from tocsin_calibration.wording import of_scales
from tocsin_detectors import DetectorError

app = typer.Typer(help="Look at bundles, and fetch them.", no_args_is_help=True)
File = Annotated[Path, typer.Argument(help="A bundle.")]

app.command("time")(time_)


@app.command()
def show(
    file: File,
    responses: Annotated[int, typer.Option(min=1, help="Tell how many alarms this many safe responses raise.")] = 1000,
    a_day: Annotated[
        str | None,
        typer.Option("--traffic", help="Show what alarms are worth at this traffic, such as 1e6/day or 20/s."),
    ] = None,
    failure_rate: Annotated[
        float | None, typer.Option(help="With --traffic: the share of responses that are failures.")
    ] = None,
    power: Annotated[
        str | None,
        typer.Option(help="With --traffic: failures caught, as CAUGHT/FAILURES, where calibrate measured none."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Show what a bundle reads, computes and promises."""
    bundle = Bundle.read(file)
    expected = traffic(bundle, a_day, failure_rate, power)
    if as_json:
        typer.echo(json.dumps(_facts(bundle, expected), indent=1))
        return
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"[bold]{file}[/]  {bundle.digest}")
    reads = ", ".join(
        f"{name} ({f'{width} numbers' if width else 'of any length'})" for name, width in bundle.scorer.signals.items()
    )
    console.print(f"reads      {reads}")
    for detector in bundle.detectors:
        cost = f"{detector['cost_us']:g} us  " if "cost_us" in detector else ""
        console.print(f"computes   {detector['name']}  {cost}[dim]{detector.get('source', '')}[/]")
    computed = {name: reads for d in bundle.detectors for name, reads in d.get("computed", {}).items()}
    for name, reads in computed.items():
        console.print(f"           {name} is computed from {', '.join(reads)} by a model inside the bundle")
    with _naming(file):
        bundle.scorer.warm()
        natively = f"; up to {bundle.scorer.native_rows} natively" if bundle.scorer.native_rows else ""
        console.print(f"costs      {bundle.scorer.cost(8) * 1e6:,.1f} us a response here, in batches of 8{natively}")
    promise = bundle.promise
    if promise is None:
        console.print(f"promises   nothing yet: run `tocsin calibrate {file} SAFE_DATA`")
    else:
        console.print(f"alarms     when {meaning(promise.rule)} (rule '{promise.rule}')")
        if (sessions := promise.sessions) is not None:
            kind = {"max": "one threshold", "band": "a band along the usual course", "step": "a threshold a step"}
            console.print(
                f"           over the {sessions.window.how} of the last {sessions.window.width}, by "
                f"{kind[sessions.style]}"
            )
        _show_promise(console, promise, responses)
    if bundle.risk is not None:
        console.print(
            f"weighs     answers by {bundle.risk.correctness.name} of {bundle.scorer.detectors[bundle.risk.column]}, "
            f"learnt on {bundle.risk.labelled:,} labelled responses"
        )
        if bundle.risk.selective is not None:
            console.print(f"           and bounds the risk of wrong answers: {bundle.risk.selective}")
    if expected is not None:
        show_worth(console, expected)
    for step, facts in bundle.provenance.items():
        when = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(facts.get("timestamp", 0)))
        console.print(f"{step:<10} on {facts.get('rows', 0):,} responses, {when}, tocsin {facts.get('tocsin', '?')}")


def _show_promise(console: Console, promise: Promise, responses: int) -> None:
    """Print what a bundle promises, and how many of the next `responses` may alarm."""
    by_group = bool(promise.groups) and promise.sessions is None
    for severity in reversed(promise.alphas):
        console.print(f"promises   {promise.sentence(severity)}")
        if not by_group and not promise.is_per_step:
            low, high = promise.limits.count_range(severity, responses)
            text = f"at most {high:,}" if promise.terms.contaminated else f"{low:,} to {high:,}"
            console.print(f"           of the next {responses:,} safe {promise.unit}, {text} alarm (99 times of 100)")
    console.print("           on traffic like the calibration traffic: one response exchangeable with another")
    if by_group:
        text = ", ".join(f"{name} ({limits.n:,})" for name, limits in promise.groups.items())
        of_class = "" if promise.classes is None else f"classes by {promise.classes.signal}, "
        console.print(f"groups     {of_class}each with a promise of its own: {text}")
    if (scales := of_scales(promise)) is not None:
        console.print(f"scales     {scales.removeprefix('scales of the detectors ')}")
    if promise.pooled:
        text = f"one promise for all of these together, and groups that may come ({promise.remaining.n:,})"
        if by_group and promise.others is None:
            text = "too few responses even together, so no promise and no evidence"
        console.print(f"           {text}: {', '.join(promise.pooled)}")


@app.command()
def verify(file: File) -> None:
    """Check that a bundle is complete, unaltered, loads, and is calibrated."""
    bundle = Bundle.read(file)
    bundle.require_promise(file)
    with _naming(file):
        bundle.scorer.warm()
    typer.echo(f"{file}: whole, unaltered, calibrated ({bundle.digest})")


@contextmanager
def _naming(file: Path) -> Iterator[None]:
    """Adds the bundle's name to errors of its graph. Raises BundleError."""
    try:
        yield
    except DetectorError as error:
        raise BundleError(f"{file}: {error}") from error


def _facts(bundle: Bundle, expected: Traffic | None) -> dict[str, Any]:
    """What `tocsin bundle --json` prints."""
    promise = bundle.promise
    severities = {}
    if promise is not None:
        for name, alpha in promise.alphas.items():
            interval = promise.limits.rate_range(name)
            severities[name] = {
                "alpha": alpha,
                "confidence": promise.limits.sure[name],
                "expected_rate": None if promise.is_per_step else promise.limits.likely_law(name).mean_rate,
                "threshold": promise.thresholds[name],
                "rate_interval_99": interval,
            }
    return {
        "digest": bundle.digest,
        "model": bundle.model,
        "signals": bundle.scorer.signals,
        "detectors": list(bundle.detectors),
        "promise": promise
        and {
            "rule": promise.rule,
            "unit": promise.unit,
            "responses": promise.n,
            "confidence": promise.terms.confidence,
            "else_average": promise.terms.else_average,
            "contaminated": promise.terms.contaminated,
            "groups": {name: limits.n for name, limits in promise.groups.items()},
            "classes": promise.classes and promise.classes._asdict(),
            "others": None if promise.others is None else promise.others.n,
            "severities": severities,
        },
        "traffic": expected and expected.facts(),
        "made": bundle.provenance,
    }


@app.command()
def fetch(
    source: Annotated[str, typer.Argument(help=f"Where it is kept: {SOURCES}.")],
    file: Annotated[Path, typer.Argument(help="The file to write.")],
    digest: Annotated[str, typer.Option(help="The bundle's own, as `tocsin bundle show` says it: sha256:...")],
    plain_http: Annotated[bool, typer.Option("--plain-http", help="The registry has no TLS.")] = False,
) -> None:
    """Fetch a bundle from where it is stored, only the one with that digest. Does nothing if the file exists."""
    bundle = fetch_bundle(source, file, digest, plain_http=plain_http)
    typer.echo(f"{file} is {bundle.digest}")
