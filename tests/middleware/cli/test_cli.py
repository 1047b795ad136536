"""Claims about the command, run as a user runs it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from benchmarks.harness.parts import SIGNALS, far_away, safe_traffic
from tests.command import tocsin

from tocsin_calibration import Bundle


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "safe.parquet"
    columns = {}
    for name, values in safe_traffic(700).items():
        columns[f"signal.{name}"] = pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])
    pq.write_table(pa.table(columns), path)
    return path


@pytest.fixture(scope="module")
def calibrated_bundle(recording: Path) -> Path:
    bundle = recording.parent / "made.tocsin"
    output = tocsin("fit", recording, "-o", bundle, "-d", "entropy", "-d", "mahalanobis:embedding").stderr
    assert f"next: tocsin calibrate {bundle} {recording}" in output
    assert Bundle.read(bundle).promise is None
    output = tocsin("calibrate", bundle, recording, "--warning", "0.1", "--critical", "0.02").stdout
    assert "on 420 responses it was not fitted on" in output
    assert "at most 10% of safe responses like the 280 calibration responses alarm" in output
    return bundle


def test_fit_and_calibrate_make_a_bundle_that_keeps_its_promise(calibrated_bundle: Path) -> None:
    bundle = Bundle.read(calibrated_bundle)
    promise = bundle.require_promise()
    fresh = safe_traffic(4_000, seed=99)
    alarms = sum(s is not None for s in promise.judge(bundle.scorer(fresh)).severities)
    low, high = promise.laws["warning"].count_interval(4_000, 1 - 1e-4)
    assert low <= alarms <= high
    assert bundle.provenance["fitted"]["rows"] == 280 and bundle.provenance["calibrated"]["rows"] == 420


def test_fitting_waits_for_no_package_that_its_detectors_do_not_need(recording: Path, tmp_path: Path) -> None:
    program = (
        "import sys; from tocsin.cli.main import app\n"
        f"app({['fit', str(recording), '-o', str(tmp_path / 'b'), '-d', 'entropy', '-d', 'mahalanobis']}, "
        "standalone_mode=False)\n"
        "print([name for name in ('torch', 'sklearn') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_fitting_again_with_the_same_seed_gives_the_same_scores(
    calibrated_bundle: Path, recording: Path, tmp_path: Path
) -> None:
    again = tmp_path / "again.tocsin"
    tocsin("fit", recording, "-o", again, "-d", "entropy", "-d", "mahalanobis:embedding")
    fresh = safe_traffic(50, seed=7)
    np.testing.assert_array_equal(Bundle.read(again).scorer(fresh), Bundle.read(calibrated_bundle).scorer(fresh))


def test_show_says_what_a_bundle_promises(calibrated_bundle: Path) -> None:
    said = tocsin("bundle", "show", calibrated_bundle, "--responses", "500").stdout
    promise = Bundle.read(calibrated_bundle).require_promise()
    low, high = promise.laws["warning"].count_interval(500)
    assert "reads      probs (10 numbers), embedding (8 numbers)" in said
    assert "computes   mahalanobis" in said and "arXiv:1807.03888" in said
    assert f"of the next 500 safe responses, {low} to {high} alarm" in said
    assert "some detector stands out (rule 'any')" in said
    facts = json.loads(tocsin("bundle", "show", calibrated_bundle, "--json").stdout)
    assert facts["promise"]["severities"]["warning"]["alpha"] == 0.1
    assert facts["digest"] == Bundle.read(calibrated_bundle).digest


def test_verify_accepts_whole_bundles_only(calibrated_bundle: Path, tmp_path: Path) -> None:
    assert "whole, unaltered, calibrated" in tocsin("bundle", "verify", calibrated_bundle).stdout
    timed = tocsin("bundle", "time", calibrated_bundle, "--rows", "8").stdout
    assert "in batches of 8" in timed and "all, as one graph" in timed and "entropy" in timed
    assert "for a response of 4 KB, predicted" in timed and "enforce" in timed
    damaged = tmp_path / "damaged.tocsin"
    content = bytearray(calibrated_bundle.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)
    assert str(damaged) in tocsin("bundle", "verify", damaged, code=2).stderr


def test_config_check_and_schema(calibrated_bundle: Path, tmp_path: Path) -> None:
    config = tmp_path / "tocsin.yaml"
    lines = "\n".join(f"      {name}: {path}" for name, path in SIGNALS.items())
    config.write_text(f"mode: annotate\nmodels:\n  digits:\n    bundle: {calibrated_bundle}\n    signals:\n{lines}\n")
    assert (
        "annotate, 0.0.0.0:8001 -> 127.0.0.1:8081, guards digits (sha256:" in tocsin("config", "check", config).stdout
    )
    schema = json.loads(tocsin("config", "schema").stdout)
    assert schema["properties"]["mode"]["enum"] == ["observe", "annotate", "enforce"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["serve", "-c", "none.yaml"], "none.yaml: there is no such file"),
        (["bundle", "show", "none.tocsin"], "none.tocsin: there is no such file"),
        (["fit", "none", "-o", "x", "-d", "entropy"], "none: there is no recording"),
        (["fit", "{recording}", "-o", "x", "-d", "magic"], "there is no detector 'magic'"),
        (["fit", "{recording}", "-o", "x", "-d", "energy"], "has no signal 'logits' (it has: probs, embedding)"),
        (["fit", "{recording}", "-o", "/none/x", "-d", "entropy"], "cannot be written"),
        (["calibrate", "{bundle}", "{recording}", "--critical", "0.001"], "cannot keep alpha = 0.001: 1498 are needed"),
        (
            ["calibrate", "{bundle}", "{recording}", "--critical", "0.001"],
            "leave critical out (`tocsin calibrate --crit",
        ),
        (["calibrate", "{bundle}", "{recording}", "--critical", "0", "--warning", "0"], "leave no severity to promise"),
        (["calibrate", "{bundle}", "{recording}", "--rule", "most"], "the joint rule is one of any, all, learnt"),
        (["calibrate", "{bundle}", "{recording}", "--critical", "0.5"], "--critical 0.5 exceeds --warning 0.05"),
    ],
)
def test_a_users_mistake_is_one_clear_line_and_code_2(
    arguments: list[str], message: str, calibrated_bundle: Path, recording: Path
) -> None:
    filled = [a.format(bundle=calibrated_bundle, recording=recording) for a in arguments]
    error = tocsin(*filled, code=2).stderr.strip().splitlines()[-1]
    assert error.startswith("error: ") and message in error


@pytest.mark.parametrize("setting", ["listen", "metrics", "admin"])
def test_a_port_that_is_taken_is_told(setting: str, tmp_path: Path) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as listening:
        config = tmp_path / "tocsin.yaml"
        addresses = {"listen": "127.0.0.1:0", "metrics": "null", "admin": "null"}
        addresses[setting] = f"127.0.0.1:{listening.getsockname()[1]}"
        lines = "".join(f"{name}: {address}\n" for name, address in addresses.items())
        config.write_text(lines + "models: {digits: {signals: {probs: response.outputs.probs}}}\n")
        assert f"cannot listen on {addresses[setting]}" in tocsin("serve", "-c", config, code=2).stderr


def test_calibrating_on_nothing_but_fitted_rows_is_refused(recording: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "all.tocsin"
    tocsin("fit", recording, "-o", bundle, "-d", "entropy", "--share", "1.0")
    assert "every row was used for fitting" in tocsin("calibrate", bundle, recording, code=2).stderr


@pytest.mark.long
def test_suggest_says_what_fits_and_what_tells(recording: Path, tmp_path: Path) -> None:
    strange = tmp_path / "strange.parquet"
    pq.write_table(pa.table({f"signal.{name}": list(values) for name, values in far_away(200).items()}), strange)
    output = tocsin("fit", recording, "--suggest", "--shifted", strange).stdout
    rows = {line.split()[0]: line for line in output.splitlines() if line[:1].isalpha()}
    assert {"entropy", "mahalanobis", "rnd", "knn"} <= set(rows)
    assert "1.000 [" in rows["mahalanobis"] and "AUROC" in rows["detector"]
    assert "keep other traffic like" in output
    cheapest = tocsin("fit", recording, "--suggest").stdout
    assert "AUROC" not in cheapest and "us at batch 1" in cheapest


def test_a_model_before_the_detectors_goes_into_the_bundle(tmp_path: Path, recording: Path) -> None:
    from spox import Tensor, argument, build
    from spox.opset.ai.onnx import v18 as op

    rows = argument(Tensor(np.float32, ("n", 8)))
    half = op.matmul(rows, op.const(np.eye(8, 4, dtype=np.float32)))
    model = tmp_path / "half.onnx"
    model.write_bytes(build({"embedding": rows}, {"half": half}).SerializeToString())
    bundle = tmp_path / "half.tocsin"
    tocsin("fit", recording, "-o", bundle, "--features", f"halved={model}", "-d", "mahalanobis:halved", "-d", "entropy")
    tocsin("calibrate", bundle, recording, "--warning", "0.1", "--critical", "0.02")
    read = Bundle.read(bundle)
    assert read.scorer.signals == {"embedding": 8, "probs": 10}
    assert read.detectors[0]["computed"] == {"halved": ["embedding"]} and read.detectors[0]["cost_us"] > 0
    assert "computes   mahalanobis" in tocsin("bundle", "show", bundle).stdout


def test_broken_rows_are_refused_or_left_out(recording: Path, tmp_path: Path) -> None:
    table = pq.read_table(recording)
    values = np.array(table.column("signal.probs").to_pylist())
    values[[5, 600]] = np.nan
    broken = tmp_path / "broken.parquet"
    pq.write_table(table.set_column(0, "signal.probs", pa.array(list(values))), broken)
    bundle = tmp_path / "b.tocsin"
    options = ["-o", bundle, "-d", "entropy", "--share", "1.0"]
    assert "--leave-out-broken" in tocsin("fit", broken, *options, code=2).stderr
    output = tocsin("fit", broken, *options, "--leave-out-broken").stderr
    assert "left out 2 of 700 responses that hold NaN or infinity" in output
    tocsin("fit", broken, "-o", bundle, "-d", "entropy", "--leave-out-broken", "--memory", "1")
    output = tocsin("calibrate", bundle, broken, "--warning", "0.1", "--critical", "0.05", "--leave-out-broken").stdout
    assert "at most 10%" in output
