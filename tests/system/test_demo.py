"""Claims about the demo: a real MLServer, recorded, fitted, calibrated, guarded and measured by the commands."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.command import tocsin

from tocsin_calibration import Bundle

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def demo_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str, dict[str, Any]]:
    """The demo's figures, what it printed, and what its page showed when it was left open."""
    figures = tmp_path_factory.mktemp("demo") / "demo.json"
    command = [sys.executable, "-m", "tocsin", "demo", "--keep", "--json", figures, "--work", ROOT / ".demo"]
    said = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        for line in process.stdout:
            said.append(line)
            if match := re.search(r"The page is at (http://\S+/), with traffic", line):
                break
        else:
            raise AssertionError(f"the demo did not come to its end:\n{''.join(said)}")
        with urllib.request.urlopen(f"{match[1]}snapshot") as answer:
            shown = json.load(answer)
        port = json.loads((ROOT / ".demo" / "model" / "settings.json").read_text())["grpc_port"]
        tocsin("init", "--ask", f"127.0.0.1:{port}", "-o", figures.with_name("tocsin.yaml"))
        shown["init"] = figures.with_name("tocsin.yaml").read_text()
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
    return json.loads(figures.read_text()), "".join(said), shown


def test_it_offers_its_page_and_leaves_it_open_when_asked(demo_run: tuple[dict[str, Any], str, dict[str, Any]]) -> None:
    assert "tocsin demo --keep" in demo_run[1]
    (model,) = demo_run[2]["models"]
    assert model["name"] == "digits" and model["judged"] >= 1_747 and demo_run[2]["alarms"]


def test_the_promise_holds_on_held_out_digits_by_its_law(demo_run: tuple[dict[str, Any], str, dict[str, Any]]) -> None:
    safe = demo_run[0]["safe"]
    law = Bundle.read(ROOT / ".demo" / "digits.tocsin").require_promise().laws["warning"]
    low, high = law.count_interval(safe["responses"], 0.9999)
    assert safe["responses"] >= 500
    assert low <= safe["alarms"] <= high
    assert safe["interval"] == list(law.count_interval(safe["responses"], 0.99))


def test_far_inputs_are_alarmed_and_near_ones_more_often_than_safe_ones(
    demo_run: tuple[dict[str, Any], str, dict[str, Any]],
) -> None:
    ood, safe = demo_run[0]["ood"], demo_run[0]["safe"]
    for kind in ("photo patches", "noise", "inverted"):
        assert ood["kinds"][kind] >= 0.9
    for kind in ("rotated", "half-covered", "MNIST digits"):
        assert ood["kinds"][kind] > 2 * safe["alarms"] / safe["responses"]
    assert ood["responses"] == 200 * len(ood["kinds"])


def test_no_response_is_altered_and_everything_is_told(demo_run: tuple[dict[str, Any], str, dict[str, Any]]) -> None:
    assert demo_run[0]["altered_responses"] == 0
    assert demo_run[0]["alpha"] == 0.05
    assert demo_run[0]["added_latency_us"] > 0
    assert "0 of 1,747" in demo_run[1]
    assert (ROOT / ".demo" / "demo.png").read_bytes().startswith(b"\x89PNG")


def test_a_first_configuration_comes_of_asking_the_model_server(
    demo_run: tuple[dict[str, Any], str, dict[str, Any]],
) -> None:
    content = yaml.safe_load(demo_run[2]["init"])
    assert content["models"]["digits"]["signals"] == {
        "probs": "response.outputs.predict_proba",
        "logits": "response.outputs.logits",
        "embedding": "response.outputs.hidden",
    }
    assert "FP64 [-1, 10]" in demo_run[2]["init"] and "no numbers to judge by: predict INT64" in demo_run[2]["init"]
