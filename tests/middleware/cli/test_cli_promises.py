"""Claims about the commands that promise, evaluate and select, run as a user runs them."""

from __future__ import annotations

import csv
import datetime
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.command import tocsin
from typer.testing import CliRunner

from tocsin.cli.main import app
from tocsin_calibration import Bundle, distributional_correctness
from tocsin_detectors import Observations

START = datetime.datetime(2026, 11, 24, 6, 0)


def traffic(rows: int, seed: int, shift: float = 0.0) -> tuple[Observations, dict[str, Any]]:
    """A classifier of ten classes that is often right when it is sure; groups, sessions of eight, and times."""
    random = np.random.default_rng(seed)
    sure = random.random(rows)
    probs = random.dirichlet(np.full(10, 0.5), rows) * (1 - sure[:, None])
    probs[:, 0] += sure
    columns = {
        "time": [START + datetime.timedelta(seconds=10 * row) for row in range(rows)],
        "group": random.choice(["north", "south"], rows).tolist(),
        "session": [f"s{row // 8}" for row in range(rows)],
        "correct": (random.random(rows) < 0.2 + 0.8 * sure).tolist(),
        "ratio": np.full(rows, 1.0).tolist(),
    }
    said = probs.argmax(axis=1)
    columns["truth"] = np.where(
        np.arange(rows) % 3 > 0, said % 9, (said + 1) % 9
    ).tolist()  # choice 9 is "I don't know"
    return Observations({"probs": probs, "embedding": random.normal(shift, 1, size=(rows, 6))}), columns


def written(path: Path, rows: int, seed: int, shift: float = 0.0) -> Path:
    shown, columns = traffic(rows, seed, shift)
    for name, values in shown.items():
        columns[f"signal.{name}"] = pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])
    pq.write_table(pa.table(columns), path)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("promises")
    written(path / "safe.parquet", 3_200, 1)
    written(path / "fresh.parquet", 1_600, 2)
    written(path / "bad.parquet", 240, 3, shift=3.0)
    tocsin("fit", path / "safe.parquet", "-o", path / "fitted.tocsin", "-d", "entropy", "-d", "mahalanobis:embedding",
           "-d", "max_softmax", "--share", "0.25")  # fmt: skip
    return path


def calibrated(folder: Path, name: str, *more: str | Path) -> tuple[Bundle, str]:
    out = folder / f"{name}.tocsin"
    said = tocsin("calibrate", folder / "fitted.tocsin", folder / "safe.parquet", "-o", out, *more).stdout
    return Bundle.read(out), said


@pytest.mark.long
def test_scales_from_what_was_fitted_on_leave_all_of_the_rest_to_the_promise(folder: Path) -> None:
    read, said = calibrated(folder, "scales", "--scales", folder / "safe.parquet")
    promise = read.require_promise()
    assert promise.scales is not None and len(promise.scales) == 800 and promise.n == 2_400
    assert "come from 800 responses outside calibration: all 2,400 responses carry the promise" in said
    assert "scales     come from 800 responses" in tocsin("bundle", "show", folder / "scales.tocsin").stdout
    refused = CliRunner().invoke(
        app, ["calibrate", str(folder / "fitted.tocsin"), str(folder / "fresh.parquet"),
              "--scales", str(folder / "fresh.parquet"), "-o", str(folder / "refused.tocsin")]
    )  # fmt: skip
    assert refused.exit_code != 0 and not (folder / "refused.tocsin").exists()


@pytest.mark.long
def test_rules_and_terms_are_said_and_come_back_from_the_bundle(folder: Path) -> None:
    read, said = calibrated(folder, "terms", "--rule", "2 of 3", "--confidence", "0.9")
    promise = read.require_promise()
    assert promise.rule == "2 of 3" and promise.terms.confidence == 0.9
    assert "(confidence 90%); expect about" in said
    shown = tocsin("bundle", "show", folder / "terms.tocsin").stdout
    assert "at least 2 of 3 detectors stand out" in shown
    read, said = calibrated(folder, "dirty", "--contaminated", "0.02")
    assert (
        read.require_promise().terms.contaminated == 0.03 and "up to 3% of them may be bad" in said
    )  # all of them among these
    read, said = calibrated(folder, "weighted", "--weights", "ratio")
    assert read.require_promise().limits.weighted is not None and "weighted to the traffic expected" in said
    more = ["--classes", "group", "--expected", "north=0.8", "--expected", "south=0.2"]
    read, _ = calibrated(folder, "classes", *more)
    limits = read.require_promise().limits
    assert limits.weighted is not None and limits.weighted.weights.max() / limits.weighted.weights.min() > 3
    expected = written(folder / "expected.parquet", 1_200, 6, shift=0.2)
    read, _ = calibrated(folder, "target", "--target", expected)
    limits = read.require_promise().limits
    assert limits.weighted is not None and 300 < limits.effective < limits.n
    far = written(folder / "far.parquet", 1_200, 7, shift=3.0)
    refused = ["calibrate", folder / "fitted.tocsin", folder / "safe.parquet", "--target", far]
    assert "the recording and the traffic to guard differ too much" in tocsin(*refused, code=2).stderr


def test_groups_have_promises_of_their_own_and_are_evaluated_so(folder: Path) -> None:
    read, said = calibrated(folder, "groups", "--groups", "group")
    assert set(read.require_promise().groups) == {"north", "south"} and "each on its own for: north, south" in said
    output = tocsin("evaluate", folder / "groups.tocsin", folder / "fresh.parquet", "--groups", "group").stdout
    assert "group north" in output and "group south" in output and "broken" not in output
    assert (
        "groups     each with a promise of its own: north ("
        in tocsin("bundle", "show", folder / "groups.tocsin").stdout
    )


def test_classes_that_responses_name_have_promises_of_their_own(folder: Path) -> None:
    """Calibrated, shown, evaluated and replayed by the same classes; refused where none has enough responses."""
    terms = ("--by-class", "probs", "--critical", "0", "--on-average", "--warning", "0.1")
    read, said = calibrated(folder, "by-class", *terms)
    promise = read.require_promise()
    assert promise.classes == ("probs", 10) and "0" in promise.groups
    assert "each on its own for: classes by probs 0" in said
    shown = tocsin("bundle", "show", folder / "by-class.tocsin").stdout
    assert "groups     classes by probs, each with a promise of its own: 0 (" in shown
    evaluated = tocsin("evaluate", folder / "by-class.tocsin", folder / "fresh.parquet",
                       "--failures", folder / "bad.parquet").stdout  # fmt: skip
    assert "group 0" in evaluated and "broken" not in evaluated
    assert "would have alarmed" in tocsin("replay", folder / "fresh.parquet", folder / "by-class.tocsin").stdout
    for more, message in (
        (["--by-class", "mood"], "no signal 'mood'"),
        (["--by-class", "probs", "--groups", "group"], "neither --groups nor --sessions"),
        (["--by-class", "probs", "--sample", "150"], "no class has the"),
    ):
        arguments = ["calibrate", folder / "fitted.tocsin", folder / "safe.parquet", "-o", folder / "no.tocsin", *more]
        assert message in tocsin(*arguments, code=2).stderr
    refused = ["evaluate", folder / "by-class.tocsin", folder / "fresh.parquet", "--groups", "group"]
    assert "the classes that signal 'probs' names" in tocsin(*refused, code=2).stderr


@pytest.mark.long
def test_inputs_to_watch_are_kept_in_the_bundle_or_refused_in_one_line(folder: Path) -> None:
    read, _ = calibrated(folder, "inputs", "--inputs", "embedding")
    inputs = read.require_promise().inputs
    assert inputs is not None and inputs.signals == ("embedding",) and inputs.rows.shape == (512, 7)
    read, _ = calibrated(folder, "both", "--inputs", "embedding", "--inputs", "probs", "--scales",
                         folder / "safe.parquet")  # fmt: skip
    inputs = read.require_promise().inputs
    assert inputs is not None and inputs.signals == ("embedding", "probs") and len(inputs.centre) == 16
    for more, message in (
        (["--inputs", "mood"], "--inputs mood: signals of a fixed length"),
        (["--inputs", "embedding", "--weights", "ratio"], "not with --sessions, --weights"),
        (["--inputs", "embedding", "--contaminated", "0.02"], "not with --contaminated"),
        (["--inputs", "embedding", "--sample", "150"], "watching inputs takes 64 responses"),
    ):
        out = folder / "refused.tocsin"
        arguments = ["calibrate", folder / "fitted.tocsin", folder / "safe.parquet", "-o", out, *more]
        assert message in tocsin(*arguments, code=2).stderr and not out.exists()


@pytest.mark.long
def test_parts_of_the_traffic_are_told_by_column_class_time_and_slab(folder: Path) -> None:
    calibrated(folder, "parts")
    facts = folder / "parts.json"
    by = [part for name in ("group", "class", "time", "ratio", "slab") for part in ("--by", name)]
    arguments = ["evaluate", folder / "parts.tocsin", folder / "fresh.parquet", *by, "--json", facts]
    output = tocsin(*arguments, "--html", folder / "parts.html").stdout
    kinds = [part["kind"] for part in json.loads(facts.read_text())["parts"]]
    assert {kind: kinds.count(kind) for kind in kinds} == {"group": 2, "class": 10, "time": 5, "ratio": 1, "slab": 1}
    assert "group north" in output and "of 19 parts alarm at more than 0.05 for sure" in output
    assert "Parts of the traffic" in (folder / "parts.html").read_text()
    error = tocsin("evaluate", folder / "parts.tocsin", folder / "fresh.parquet", "--by", "mood", code=2).stderr
    assert "has no column 'mood'" in error


@pytest.mark.parametrize("style", ["max", "band", "step"])
def test_sessions_are_promised_for_and_evaluated_as_sessions(folder: Path, style: str) -> None:
    fitted = folder / f"whole-{style}.tocsin"
    options = ["-d", "mahalanobis:embedding", "--share", "0.25", "--sessions", "session"]
    tocsin("fit", folder / "safe.parquet", "-o", fitted, *options)
    terms = ["--sessions", "session", "--window", "3", "--style", style, "--critical", "0.02", "--rule", "all"]
    said = tocsin("calibrate", fitted, folder / "safe.parquet", "-o", folder / f"{style}.tocsin", *terms).stdout
    read = Bundle.read(folder / f"{style}.tocsin")
    assert read.require_promise().sessions is not None and "sessions like the" in said
    output = tocsin(
        "evaluate", folder / f"{style}.tocsin", folder / "fresh.parquet", "--failures", folder / "bad.parquet"
    ).stdout
    assert output.startswith("sessions, at step 8" if style == "step" else "sessions ") and "TWA" in output
    assert "of 200" in output
    assert "broken" not in output
    output = tocsin("calibrate", folder / f"{style}.tocsin", folder / "fresh.parquet", *terms, "--compare").stdout
    assert "of these sessions" in output and "nothing was written" in output
    assert "over the mean of the last 3" in tocsin("bundle", "show", folder / f"{style}.tocsin").stdout


@pytest.mark.parametrize(("left_out", "remaining"), [("critical", "warning"), ("warning", "critical")])
def test_a_severity_of_rate_0_is_left_out(folder: Path, left_out: str, remaining: str) -> None:
    """As sessions.md tells: too few sessions for critical alarms still suffice for warnings alone."""
    fitted, rates = folder / f"without-{left_out}.tocsin", ["--warning", "0.2", "--critical", "0.2"]
    tocsin("fit", folder / "safe.parquet", "-o", fitted, "-d", "entropy", "--share", "0.25", "--sessions", "session")
    rates[rates.index(f"--{left_out}") + 1] = "0"
    tocsin("calibrate", fitted, folder / "safe.parquet", "--sessions", "session", *rates)
    assert Bundle.read(fitted).require_promise().alphas == {remaining: 0.2}
    assert left_out not in tocsin("evaluate", fitted, folder / "fresh.parquet").stdout


def test_only_sessions_that_went_well_are_learnt_from(folder: Path) -> None:
    good = folder / "good.txt"
    good.write_text("".join(f"s{at}\n" for at in range(0, 400, 2)) + "never-recorded\n")
    fitted, calibrated_path = folder / "good.fitted.tocsin", folder / "good.tocsin"
    only = ["--sessions", "session", "--only", good]
    said = tocsin("fit", folder / "safe.parquet", "-o", fitted, "-d", "mahalanobis:embedding", *only).stderr
    assert "kept " in said and Bundle.read(fitted).provenance["fitted"]["rows"] < 0.25 * 3_200
    said = tocsin(
        "calibrate", fitted, folder / "safe.parquet", "-o", calibrated_path, "--critical", "0.05", *only
    ).stdout
    sessions = Bundle.read(fitted).provenance["fitted"]["rows"] // 8
    assert f"on {(200 - sessions) * 8:,} responses" in said
    output = tocsin("evaluate", calibrated_path, folder / "fresh.parquet", "--only", good).stdout
    assert "kept 100 of 200 sessions" in output


def test_failures_measure_what_an_alarm_is_worth(folder: Path) -> None:
    read, said = calibrated(folder, "learnt", "--rule", "learnt", "--failures", folder / "bad.parquet")
    assert "evidence is weighted: " in said
    caught, of = read.provenance["calibrated"]["power"]["warning"]
    assert of == 120 and caught > 100  # the other half taught the rule
    traffic_options = ["--traffic", "1e6/day", "--failure-rate", "0.001"]
    shown = tocsin("bundle", "show", folder / "learnt.tocsin", *traffic_options).stdout
    assert "at 1,000,000 responses a day, 0.100% of them failures (1,000):" in shown and "an alarm is right" in shown
    facts = json.loads(tocsin("bundle", "show", folder / "learnt.tocsin", *traffic_options, "--json").stdout)
    precision = facts["traffic"]["severities"]["warning"]["precision"]
    assert 0.01 < precision["low"] < precision["value"] < precision["high"] < 0.05
    per_second = tocsin(
        "bundle", "show", folder / "learnt.tocsin", "--traffic", "20/s", "--failure-rate", "0.01"
    ).stdout
    assert "at 1,728,000 responses a day" in per_second


def test_labels_teach_probabilities_and_an_evaluation_reports_them(folder: Path) -> None:
    _, said = calibrated(folder, "risk", "--correct", "correct", "--max-error", "0.1", "--share", "0.8")
    assert "answers are right with probabilities learnt from" in said and "risk of wrong answers bounded at 0.1" in said
    output = tocsin(
        "evaluate", folder / "risk.tocsin", folder / "fresh.parquet", "--label", "truth", "--idk", "9"
    ).stdout
    shown, columns = traffic(1_600, 2)
    expected = distributional_correctness(shown["probs"], columns["truth"], 9).mean()
    assert f"DCS {expected:+.4f}" in output and "expected DCS" in output
    page, facts = folder / "risk.html", folder / "risk.json"
    options = ["--correct", "correct", "--groups", "group", "--failures", folder / "bad.parquet", "--wrong-costs", "3"]
    output = tocsin(
        "evaluate", folder / "risk.tocsin", folder / "fresh.parquet", *options, "--html", page, "--json", facts
    ).stdout
    assert "AURC" in output and "ECE" in output and "harmony of groups" in output and "caught, warning" in output
    evaluation = json.loads(facts.read_text())
    assert evaluation["severities"]["warning"]["word"] == "kept" and evaluation["rows"] == 1_600
    probabilities = evaluation["labelled"]["probabilities"]
    assert probabilities["worth_policy"] > probabilities["worth_always"]
    assert page.read_text().count("<svg") >= 4
    # What was left by --share 0.8 is what evaluation on the same file gets.
    assert "of 480" in tocsin("evaluate", folder / "risk.tocsin", folder / "safe.parquet").stdout


def test_a_candidate_is_compared_before_it_is_taken(folder: Path) -> None:
    calibrated(folder, "current")
    before = (folder / "current.tocsin").read_bytes()
    output = tocsin("calibrate", folder / "current.tocsin", folder / "fresh.parquet", "--compare").stdout
    assert "advice: keep either" in output and "nothing was written" in output
    assert (folder / "current.tocsin").read_bytes() == before
    moved = written(folder / "moved.parquet", 1_600, 4, shift=0.8)
    output = tocsin("calibrate", folder / "current.tocsin", moved, "--compare", "-o", folder / "next.tocsin").stdout
    assert "advice: take the candidate" in output
    assert Bundle.read(folder / "next.tocsin").digest != Bundle.read(folder / "current.tocsin").digest
    error = tocsin("calibrate", folder / "current.tocsin", folder / "safe.parquet", "--compare", code=2).stderr
    assert "for the calibration to compare with" in error


def test_incidents_are_left_out_by_time_and_the_newest_or_a_sample_kept(folder: Path) -> None:
    _, said = calibrated(folder, "some", "--exclude", "2026-11-24T07:00/2026-11-24T08:00", "--newest", "1500")
    assert "kept 1,500 of 2,400 responses (" in said and "came during the incidents)" in said
    read, _ = calibrated(folder, "drawn", "--sample", "1000")
    assert read.provenance["calibrated"]["rows"] == 1_000


def test_a_batch_is_selected_at_a_false_discovery_rate(folder: Path) -> None:
    table = folder / "released.csv"
    arguments = ["select", folder / "fitted.tocsin", folder / "safe.parquet", folder / "fresh.parquet"]
    output = tocsin(*arguments, "--fdr", "0.25", "-o", table).stdout
    assert "of 1,600: at most 0.25 of them bad" in output and "OptCS over entropy" in output
    with table.open() as file:
        released = [int(row["release"]) for row in csv.DictReader(file)]
    truth = np.array(traffic(1_600, 2)[1]["correct"])
    assert len(released) == 1_600 and 100 < sum(released) < 1_600
    assert (~truth[np.array(released, bool)]).mean() < 0.3
    by = tocsin(
        "select", folder / "fitted.tocsin", folder / "safe.parquet", folder / "fresh.parquet", "--by", "entropy"
    )
    assert "(entropy)" in by.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["calibrate", "{f}", "{s}", "--rule", "9 of 3"], "does not fit 3 detectors"),
        (["calibrate", "{f}", "{s}", "--groups", "mood"], "has no column 'mood' (besides signals it has: "),
        (["calibrate", "{f}", "{s}", "--correct", "group"], "column 'group' must say true or false, not '"),
        (["calibrate", "{f}", "{s}", "--weights", "group"], "column 'group' must hold numbers"),
        (["calibrate", "{f}", "{s}", "--weights", "ratio", "--target", "{s}"], "choose one"),
        (["calibrate", "{f}", "{s}", "--classes", "group", "--expected", "north"], "--expected is CLASS=SHARE"),
        (["calibrate", "{f}", "{s}", "--classes", "group", "--expected", "north=1"], "how often class 'south' comes"),
        (["calibrate", "{f}", "{s}", "--sessions", "session", "--groups", "group"], "single responses of it"),
        (["calibrate", "{f}", "{n}", "--sessions", "session", "--style", "curve"], "max, band or step, not 'curve'"),
        (["calibrate", "{f}", "{s}", "--sessions", "session"], "single responses of it were used before"),
        (["calibrate", "{f}", "{n}", "--sessions", "session", "--newest", "9"], "would leave holes in --sessions"),
        (["calibrate", "{f}", "{s}", "--max-error", "0.1"], "name a column with --correct"),
        (
            ["calibrate", "{f}", "{s}", "--correct", "correct", "--max-error", "0.0001"],
            "no threshold reaches this risk",
        ),
        (["calibrate", "{f}", "{s}", "--exclude", "yesterday"], "--exclude is START/END"),
        (["calibrate", "{f}", "{s}", "--newest", "9", "--sample", "9"], "choose one"),
        (["calibrate", "{f}", "{s}", "--only", "/none/good.txt"], "--only /none/good.txt: cannot be read"),
        (["calibrate", "{f}", "{s}", "--only", __file__], "names in it is in the column 'session'"),
        (["calibrate", "{f}", "{s}", "--compare"], "fitted but not calibrated"),
        (["evaluate", "{f}", "{s}"], "fitted but not calibrated"),
        (["evaluate", "{g}", "{n}", "--correct", "correct", "--label", "truth"], "both say which answers were right"),
        (["bundle", "show", "{f}", "--traffic", "5"], "--traffic and --failure-rate go together"),
        (["bundle", "show", "{f}", "--traffic", "many", "--failure-rate", "0.1"], "--traffic is a count and a time"),
        (
            ["plan", "retries", "--accuracy", "2", "--passes-right", "1", "--passes-wrong", "0"],
            "accuracy lies in [0, 1]",
        ),
        (["plan", "cascade", "--stage", "x", "--passes-right", "1", "--passes-wrong", "0"], "--stage is ACCURACY,COST"),
        (["evaluate", "{g}", "{n}", "--html", "/none/x.html"], "/none/x.html: cannot be read or written (No such file"),
        (["select", "{f}", "{s}", "{n}", "--by", "magic"], "there is no detector 'magic' (there is: entropy"),
        (["feedback", "none.csv"], "none.csv: cannot be read"),
    ],
)
def test_mistakes_are_one_clear_line(folder: Path, arguments: list[str], message: str) -> None:
    paths = {
        "f": folder / "fitted.tocsin",
        "s": folder / "safe.parquet",
        "n": folder / "fresh.parquet",
        "g": folder / "c.tocsin",
    }
    if "{g}" in arguments:
        calibrated(folder, "c")
    filled = [a.format(**paths) for a in arguments]
    error = tocsin(*filled, code=2).stderr.strip().splitlines()[-1]
    assert error.startswith("error: ") and message in error
