"""tocsin plan retries|cascade|calibration"""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console

from tocsin.cli.plan_calibration import calibration
from tocsin.cli.tables import print_table
from tocsin.errors import ConfigError
from tocsin_calibration import Stage, Verifier, plan_cascade, plan_retries
from tocsin_calibration.risk.retries import Plan

app = typer.Typer(help="Compute what to do with what alarms, and what a calibration takes.", no_args_is_help=True)
app.command()(calibration)

PassesRight = Annotated[float, typer.Option(help="The share of right answers that do not alarm.")]
PassesWrong = Annotated[float, typer.Option(help="The share of wrong answers that do not alarm.")]
Gain = Annotated[float, typer.Option(help="What a right answer served is worth.")]
Loss = Annotated[float, typer.Option(help="What a wrong answer served costs.")]
Correlation = Annotated[
    float, typer.Option(help="How alike answers to one prompt are in being right, from 0 to below 1.")
]


@app.command()
def retries(
    accuracy: Annotated[float, typer.Option(help="The share of answers that are right.")],
    passes_right: PassesRight,
    passes_wrong: PassesWrong,
    gain: Gain = 1.0,
    loss: Loss = 1.0,
    cost: Annotated[float, typer.Option(help="What a try costs.")] = 0.0,
    correlation: Correlation = 0.0,
    most: Annotated[int, typer.Option(min=1, max=64, help="Look at up to so many tries.")] = 8,
) -> None:
    """Compute how many times asking again is worth its cost when an answer alarms, and what asking again cannot
    achieve.
    """
    verifier = Verifier(passes_right, passes_wrong)
    plan = plan_retries(accuracy, verifier, gain=gain, loss=loss, cost=cost, correlation=correlation, max_tries=most)
    console = Console(highlight=False, soft_wrap=True)
    _show(console, plan, "tries")
    if plan.tries == 0:
        console.print("ask never: an answer is worth less than abstaining")
    elif plan.endless:
        console.print(
            f"every further try up to {most} still helps. Tries at one prompt are seldom independent: measure their "
            f"--correlation, which makes the best number finite"
        )
    else:
        console.print(f"ask at most {plan.tries} times (retries: {plan.tries - 1}), then abstain")
    if correlation:
        console.print(
            "with correlated tries, each further one serves worse answers: those that alarmed are the hard ones"
        )


@app.command()
def cascade(
    stage: Annotated[list[str], typer.Option(help="ACCURACY,COST of a model, in the order they are asked; repeat.")],
    passes_right: PassesRight,
    passes_wrong: PassesWrong,
    gain: Gain = 1.0,
    loss: Loss = 1.0,
    correlation: Correlation = 0.0,
) -> None:
    """Compute how far it is worth going through a sequence of models, each asked when the answer before alarms."""
    stages = [_stage(text) for text in stage]
    plan = plan_cascade(stages, Verifier(passes_right, passes_wrong), gain=gain, loss=loss, correlation=correlation)
    console = Console(highlight=False, soft_wrap=True)
    _show(console, plan, "stages")
    console.print(
        "ask none: abstaining is worth more" if not plan.tries else f"ask the first {plan.tries}, then abstain"
    )


def _stage(text: str) -> Stage:
    accuracy, comma, cost = text.partition(",")
    try:
        return Stage(float(accuracy), float(cost) if comma else 0.0)
    except ValueError:
        raise ConfigError(f"--stage is ACCURACY,COST, such as 0.7,0.02, not '{text}'") from None


def _show(console: Console, plan: Plan, counted: str) -> None:
    rows = [
        (f"{at}", f"{served:.1%}", f"{accuracy:.2%}", f"{value:+.4f}")
        for at, (value, accuracy, served) in enumerate(zip(plan.values, plan.accuracies, plan.served, strict=True), 1)
    ]
    columns = (counted, "answered", "right among answered", "worth a request")
    print_table(console, columns, rows, right=True, bold=plan.tries - 1)
    console.print(f"however often one asks, at most {plan.ceiling:.2%} of what passes is right")
