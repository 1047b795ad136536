"""tocsin bundle show|verify"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from tocsin_calibration import Bundle

app = typer.Typer(help="Look at bundles.", no_args_is_help=True)
File = Annotated[Path, typer.Argument(help="A bundle.")]


@app.command()
def show(
    file: File,
    responses: Annotated[int, typer.Option(min=1, help="Tell how many alarms this many safe responses raise.")] = 1000,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Say what a bundle reads, computes and promises."""
    bundle = Bundle.read(file)
    if as_json:
        typer.echo(json.dumps(_facts(bundle), indent=1))
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
    console.print(f"costs      {bundle.scorer.cost(8) * 1e6:,.1f} us a response here, in batches of 8")
    promise = bundle.promise
    if promise is None:
        console.print(f"promises   nothing yet: run `tocsin calibrate {file} SAFE_DATA`")
    else:
        means = "some detector stands out" if promise.rule == "any" else "every detector stands out"
        console.print(f"alarms     when {means} (rule '{promise.rule}')")
        for severity in reversed(promise.alphas):
            low, high = promise.laws[severity].count_interval(responses)
            console.print(f"promises   {promise.sentence(severity)}")
            console.print(
                f"           of the next {responses:,} safe responses, {low:,} to {high:,} alarm (99 times of 100)"
            )
        console.print("           on traffic like the calibration traffic: one response exchangeable with another")
    for step, facts in bundle.made.items():
        when = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(facts.get("timestamp", 0)))
        console.print(f"{step:<10} on {facts.get('rows', 0):,} responses, {when}, tocsin {facts.get('tocsin', '?')}")


@app.command()
def verify(file: File) -> None:
    """Check that a bundle is whole, unaltered, loads, and is calibrated."""
    bundle = Bundle.read(file)
    bundle.require_promise(file)
    bundle.scorer.warm()
    typer.echo(f"{file}: whole, unaltered, calibrated ({bundle.digest})")


def _facts(bundle: Bundle) -> dict[str, Any]:
    promise = bundle.promise
    severities = {}
    if promise is not None:
        for name, alpha in promise.alphas.items():
            interval = promise.laws[name].rate_interval(0.99)
            severities[name] = {
                "alpha": alpha,
                "threshold": promise.thresholds[name],
                "rate_interval_99": interval,
            }
    return {
        "digest": bundle.digest,
        "model": bundle.model,
        "signals": bundle.scorer.signals,
        "detectors": list(bundle.detectors),
        "promise": promise and {"rule": promise.rule, "responses": promise.n, "severities": severities},
        "made": bundle.made,
    }
