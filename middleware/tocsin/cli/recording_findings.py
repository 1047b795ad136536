"""What `tocsin calibrate` sees in a recording before it promises anything on it: copies, drift, rows that are alike."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, log
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from tocsin.cli.calibrate_options import CalibrateOptions
from tocsin.cli.scored_recording import ScoredRecording
from tocsin.configuration.fields import VERSION
from tocsin.recording.reading import SESSION
from tocsin_calibration import CalibrationError
from tocsin_calibration.evaluation.exchangeability import Drift, alike, copies, dependence, drift
from tocsin_calibration.sessions.grouping import rows_by_session
from tocsin_calibration.wording import percent

REFUSAL_PROBABILITY = 5e-4  # the probability, for copies and for drift, of refusing rows that are exchangeable
WIDENING_PROBABILITY = 1e-3  # for rows and for sessions, of using fewer rows than there are when they are exchangeable
MATERIAL_DRIFT = 1.5  # times the promised rate in a quarter of the recording, from which on drift is refused
MIN_DESIGN_EFFECT = 2.0  # rows that are worth one, from which on fewer are used


class Looked(NamedTuple):
    """The rows to calibrate on, and facts for the bundle: what was seen, if anything. `independent`: what is left of
    them when rows that are alike count once, where that is not what is calibrated on.
    """

    scored: ScoredRecording
    facts: dict[str, Any]
    independent: ScoredRecording | None = None

    @property
    def compared(self) -> ScoredRecording:
        """The rows in which drift is looked for: rows that are alike would look like it."""
        return self.scored if self.independent is None else self.independent


def inspect_recording(
    scored: ScoredRecording, options: CalibrateOptions, detectors: Sequence[str], console: Console
) -> Looked:
    """Say what stands out, and leave out what is not worth more than its neighbours.

    Raises CalibrationError where a promise on this recording would not hold, unless it is wanted as it is.
    """
    facts: dict[str, Any] = {}
    units = scored.scores if options.sessions is None else _of_sessions(scored, options.sessions)
    by_part = options.groups or options.by_class
    adjusted = by_part or options.weights or options.target or options.classes or options.contaminated
    refuses = not options.as_is and not adjusted
    seen_copies = copies(units)
    if seen_copies is not None and seen_copies.log_evalue >= log(1 / REFUSAL_PROBABILITY):
        facts["copies"] = seen_copies.times
        _warn_or_refuse(
            console,
            refuses,
            f"{seen_copies.repeated:.0%} of the responses are copies of others, up to {seen_copies.times} of each "
            f"(evidence e^{seen_copies.log_evalue:.1f} to 1): a recording that is read several times promises no more "
            f"than it does once. Leave the copies out",
        )
    looked = Looked(scored, facts)
    if options.sessions is None:
        _say_versions(scored, options, console, facts)
        looked = _thinned(scored, options, console, facts)
        units = looked.compared.scores
    drifted = drift(units, max(options.alphas.values()), options.seed) if "time" in scored.columns else None
    if drifted is not None and drifted.log_evalue >= log(1 / REFUSAL_PROBABILITY):
        facts["drift_log_evalue"] = round(drifted.log_evalue, 2)
        material = max(drifted.shares) >= MATERIAL_DRIFT * max(options.alphas.values())
        _warn_or_refuse(console, refuses and material, _drift_text(drifted, options, detectors))
    return looked


def _warn_or_refuse(console: Console, refuses: bool, text: str) -> None:
    if refuses:
        raise CalibrationError(f"{text}; or calibrate on it --as-is")
    console.print(f"[yellow]note:[/] {text.replace('[', chr(92) + '[')}")


def _drift_text(drifted: Drift, options: CalibrateOptions, detectors: Sequence[str]) -> str:
    quarters, alpha = ", ".join(map(percent, drifted.shares)), percent(max(options.alphas.values()))
    return (
        f"scores change in the course of the recording (evidence e^{drifted.log_evalue:.1f} to 1). By "
        f"{detectors[drifted.column]}, {quarters} of the responses of its quarters lie above what {alpha} of all do. "
        f"Choose a time that is like the traffic to come (--newest N), or leave an incident out (--exclude START/END)"
    )


def _say_versions(scored: ScoredRecording, options: CalibrateOptions, console: Console, facts: dict[str, Any]) -> None:
    """A mixture of versions is promised for as it is; it holds while the mixture stays."""
    if VERSION not in scored.columns or options.groups is not None:
        return
    names = scored.names(VERSION)
    seen_versions = alike(scored.scores, names, options.seed)
    if (
        seen_versions is not None
        and seen_versions.p_value <= WIDENING_PROBABILITY
        and len(set(names)) <= len(names) / 2
    ):
        facts["versions"] = len(set(names))
        console.print(
            f"[yellow]note:[/] {len(set(names)):,} versions of the model are in the recording, and their scores "
            f"differ; the promise holds while they are mixed like this. --groups {VERSION} makes one for each"
        )


def _thinned(scored: ScoredRecording, options: CalibrateOptions, console: Console, facts: dict[str, Any]) -> Looked:
    """Fewer rows where they are alike: one of each session, or every k-th in the order of time."""
    rows, text = None, ""
    if SESSION in scored.columns and (sessions := _session_names(scored)) is not None:
        in_sessions = alike(scored.scores, sessions, options.seed)
        if (
            in_sessions is not None
            and in_sessions.p_value <= WIDENING_PROBABILITY
            and in_sessions.rows_worth_one >= MIN_DESIGN_EFFECT
        ):
            rows = _one_of_each(sessions, options.seed)
            text = (
                f"responses of one session are alike (correlation {in_sessions.correlation:.2f}): {scored.rows:,} of "
                f"them are worth about {scored.rows / in_sessions.rows_worth_one:,.0f}. One of each session is used; "
                f"--sessions {SESSION} promises for whole sessions instead"
            )
            facts["session_correlation"] = round(in_sessions.correlation, 3)
    if rows is None and "time" in scored.columns:
        in_time = dependence(scored.scores, options.seed)
        if (
            in_time is not None
            and in_time.p_value <= WIDENING_PROBABILITY
            and in_time.rows_worth_one >= MIN_DESIGN_EFFECT
        ):
            step = ceil(in_time.rows_worth_one)
            rows = np.arange(0, scored.rows, step)
            text = (
                f"neighbours in time are alike (correlation {in_time.correlation:.2f}): {scored.rows:,} responses are "
                f"worth about {scored.rows / in_time.rows_worth_one:,.0f}. Every {step}. is used"
            )
            facts["neighbour_correlation"] = round(in_time.correlation, 3)
    if rows is None:
        return Looked(scored, facts)
    console.print(f"[yellow]note:[/] {text}{'; all are, as asked (--as-is)' if options.as_is else ''}")
    fewer = scored.take(rows)
    if options.as_is:
        return Looked(scored, facts, fewer)
    facts["used"] = len(rows)
    return Looked(fewer, facts)


def _session_names(scored: ScoredRecording) -> list[str] | None:
    """Of each row; rows that name none are sessions of their own. None where no session has two rows."""
    names = [name or f"\0{row}" for row, name in enumerate(scored.names(SESSION))]
    return names if len(set(names)) < len(names) else None


def _one_of_each(sessions: list[str], seed: int) -> NDArray[np.intp]:
    """One row of each session, drawn by the seed, ascending."""
    draw = np.random.default_rng(seed)
    return np.sort(np.array([draw.choice(rows) for rows in rows_by_session(sessions)], np.intp))


def _of_sessions(scored: ScoredRecording, column: str) -> NDArray[np.floating[Any]]:
    """Each session's largest scores (sessions, d), in the order in which sessions began."""
    return np.array([scored.scores[rows].max(axis=0) for rows in rows_by_session(scored.names(column))])
