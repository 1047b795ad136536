"""A first configuration passes the check, and can be recorded by."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from benchmarks.harness import ranker as acme
from benchmarks.harness.model_server import model_server
from benchmarks.harness.parts import free_port
from tests.command import tocsin

from tocsin.protocols.protocol import is_http, presets
from tocsin.scaffold.asking import MethodOutline, Output
from tocsin.scaffold.template import of_methods, of_models


@pytest.mark.parametrize("protocol", presets())
def test_each_protocol_that_ships_has_one_that_passes_the_check(tmp_path: Path, protocol: str) -> None:
    out = tmp_path / "tocsin.yaml"
    said = tocsin("init", "--protocol", protocol, "-o", out).stderr
    in_program = ["--in-program"] if is_http(protocol) else []
    assert ("record in the program" if in_program else f"tocsin record -c {out}") in said
    assert "guards mine (no bundle)" in tocsin("config", "check", *in_program, out).stdout


def test_a_server_that_reflects_is_asked_for_methods_and_numbers(tmp_path: Path) -> None:
    out = tmp_path / "tocsin.yaml"
    with acme.ranker({}, reflecting=True) as (_, address):
        tocsin("init", "--ask", address, "-o", out)
        assert "guards own (no bundle)" in tocsin("config", "check", out).stdout
    content = yaml.safe_load(out.read_text())
    assert content["upstream"] == address and content["protocols"]["own"]["reflection"] is True
    assert acme.PATHS["Rank"] in content["protocols"]["own"]["methods"]
    assert content["protocols"]["own"]["methods"][acme.PATHS["Rank"]]["signals"]


def test_a_server_that_says_nothing_of_itself_is_an_error_that_says_so(tmp_path: Path) -> None:
    with model_server() as (_, address):
        said = tocsin("init", "--ask", address, "-o", tmp_path / "tocsin.yaml", code=2).stderr
    assert "the server lists neither models nor methods: " in said
    nobody = f"127.0.0.1:{free_port()}"
    assert "UNAVAILABLE" in tocsin("init", "--ask", nobody, "-o", tmp_path / "tocsin.yaml", code=2).stderr
    assert not (tmp_path / "tocsin.yaml").exists()


def test_outputs_get_the_names_that_detectors_know() -> None:
    outputs = [
        Output("output_probability", "FP32", [-1, 3]),
        Output("probs_2", "FP32", [-1, 3]),
        Output("last.hidden", "FP32", [-1, 768]),
        Output("label", "BYTES", [-1]),
    ]
    content = yaml.safe_load(of_models({"iris:1": outputs}))
    assert content["models"]["iris:1"]["signals"] == {
        "probs": "response.outputs.output_probability",
        "probs_2": "response.outputs.probs_2",
        "embedding": "response.outputs[last.hidden]",
    }


def test_methods_without_numbers_are_not_guarded() -> None:
    content = yaml.safe_load(of_methods([MethodOutline("/a.B/C", ["response.scores"]), MethodOutline("/a.B/D", [])]))
    assert content["protocols"]["own"]["methods"] == {"/a.B/C": {"signals": {"scores": "response.scores"}}}
    assert content["models"]["own"] == {"protocol": "own"}


def test_methods_that_answer_with_other_signals_get_a_model_of_their_own() -> None:
    """A bundle reads the same signals of every response: one model of both methods could not even be checked."""
    score = MethodOutline("/a.B/Score", ["response.embedding"], ["response.probabilities"])
    explain = MethodOutline("/a.B/Explain", ["response.tokens[].logprob"], streams=True)
    text = of_methods([score, explain, MethodOutline("/a.C/Score", [], ["response.shares"])])
    content = yaml.safe_load(text)
    assert content["protocols"]["score"]["methods"] == {"/a.B/Score": {"signals": {"embedding": "response.embedding"}}}
    assert "# a map, whose keys you name in their order: response.probabilities[KEY,KEY]" in text
    reads = {"judge": "message", "signals": {"token_logprobs": "response.tokens[].logprob"}}
    assert content["protocols"]["explain"]["methods"] == {"/a.B/Explain": reads}
    assert content["protocols"]["score_2"]["methods"]["/a.C/Score"]["signals"] == {"shares": "response.shares[KEY,KEY]"}
    assert {name: model["protocol"] for name, model in content["models"].items()} == {
        name: name for name in ("score", "explain", "score_2")
    }


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ([], "say --ask HOST:PORT where a model server runs, or --protocol NAME"),
        (["--ask", "x:1", "--protocol", "oip"], "say --ask"),
        (["--protocol", "none"], "--protocol none: ships not; there are anthropic, "),
        (["--protocol", "oip", "-o", "there.yaml"], "there.yaml: is there already; --force writes over it"),
        (["--protocol", "oip", "-o", "nowhere/x.yaml"], "there is no folder nowhere"),
    ],
)
def test_mistakes_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], problem: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("there.yaml").write_text("kept")
    assert problem in tocsin("init", *arguments, code=2).stderr
    assert Path("there.yaml").read_text() == "kept"
