"""The demo's last page."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.table import Table

from tocsin.demo.findings import Findings
from tocsin_calibration.wording import percent


def print_report(console: Console, findings: Findings, work: Path, picture: Path) -> None:
    """What was promised, what was seen, what it cost, and where to look next."""
    low, high = findings.interval()
    promise = findings.promise
    table = Table(title="What Tocsin promised and what it did", show_header=False, title_style="bold")
    table.add_column(style="bold")
    table.add_column()
    sure = promise.limits.sure["warning"]
    on = "on average over calibrations" if sure is None else f"confidence {percent(sure)}"
    expected = percent(promise.limits.likely_law("warning").mean_rate)
    table.add_row(
        "promised", f"at most {percent(promise.alphas['warning'])} of safe digits alarm ({on}); expect about {expected}"
    )
    within = "inside" if low <= findings.safe_alarms <= high else "OUTSIDE"
    table.add_row(
        "safe digits",
        f"{findings.safe_alarms} alarms in {findings.safe} responses ({findings.safe_alarms / findings.safe:.1%}), "
        f"{within} the {low} to {high} that the promise lets expect 99 times of 100",
    )
    for kind, rate in findings.kinds.items():
        table.add_row(kind, f"{rate:>6.1%} alarmed  {'█' * round(rate * 30)}")
    answers = findings.safe + findings.strange
    table.add_row("responses altered", f"{findings.altered} of {answers:,}, compared with the model server's own bytes")
    table.add_row("added latency", f"{findings.added_us:,.0f} us (median, of a call that is judged and annotated)")
    console.print(table)
    console.print("Look further:", style="bold")
    for command, why in (
        (str(picture), "the scores, and the levels at which they alarm"),
        (f"tocsin bundle show {work / 'digits.tocsin'}", "what the bundle promises"),
        (f"tocsin serve -c {work / 'tocsin.yaml'}", "what a sidecar runs; /metrics is for Prometheus, / for people"),
        ("tocsin demo --keep", "leaves all of this running, with its page to look at"),
    ):
        console.print(f"  {command:<45}  {why}", soft_wrap=True)
