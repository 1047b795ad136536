"""Claims about vLLM's own gRPC API: asked for, put back, judged, taken out again, and stopped in the middle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from benchmarks.harness.parts import running
from benchmarks.harness.vllm_inference import GENERATE, STREAM, VOCABULARY, Request, Response, answer, engine

import tocsin
from tocsin.configuration.config import Config
from tocsin.protocols.likeliest import likeliest
from tocsin.protocols.paths import signal_path
from tocsin.recording.reading import read_recording
from tocsin.recording.recorder import Recorder
from tocsin.unscored import Unscored
from tocsin_calibration import Bundle, calibrate
from tocsin_detectors import Observations, compile
from tocsin_detectors.registry import parse

K = 5
OTHERS = signal_path(
    {"others": "response.outputs.candidate_tokens[].tokens[].logprob", "said": "response.outputs.logprobs",
     "ranks": "response.outputs.ranks"}
)  # fmt: skip


def top(seed: int, amount: int = K, temperature: float = 1.0) -> np.ndarray:
    """The true log-probabilities of the likeliest tokens at each place (T, K)."""
    return -np.sort(-answer(seed, temperature=temperature)[1], axis=1)[:, :amount]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Token entropy of the five likeliest, and surprisal, of safe answers at temperature 1."""
    seeds = range(1_000, 1_300)
    said = [answer(seed) for seed in seeds]
    rows = {
        "top_logprobs": np.array([top(seed) for seed in seeds]),
        "token_logprobs": np.array([logs[range(len(tokens)), tokens] for tokens, logs in said]),
    }
    scorer = compile([parse("token_entropy"), parse("mean_surprisal")], fit_on=Observations(rows))
    promise = calibrate(scorer(Observations(rows)), {"warning": 0.1, "critical": 0.04}, detectors=scorer.detectors)
    path = tmp_path_factory.mktemp("vllm") / "vllm.tocsin"
    Bundle(scorer, promise, "m").write(path)
    return path


def config(upstream: str, bundle: Path, mode: str = "annotate", **model: Any) -> Config:
    return Config(
        listen="127.0.0.1:0", upstream=upstream, metrics=None, admin=None, scoring_budget="60s", mode=mode,
        models={"m": {"bundle": bundle, "protocol": "vllm_inference", "ask": K, **model}},
    )  # fmt: skip


def ask(channel: Any, method: str, request: Any) -> tuple[list[Any], Any, Any]:
    """Responses, verdict and status."""
    make = channel.unary_stream if method == STREAM else channel.unary_unary
    called = make(method, Request.SerializeToString, Response.FromString)
    if method == GENERATE:
        response, call = called.with_call(request, timeout=60)
        return [response], tocsin.verdict(call), call.code()
    call, received = called(request, timeout=60), []
    try:
        for response in call:
            received.append(response)
    except grpc.RpcError:
        pass
    return received, tocsin.verdict(call), call.code()


def expected(bundle: Path, seed: int, temperature: float = 1.0) -> list[float]:
    """The p-value by the true log-probabilities."""
    tokens, logs = answer(seed, temperature=temperature)
    shown = Observations(
        {
            "top_logprobs": top(seed, temperature=temperature)[None],
            "token_logprobs": logs[range(len(tokens)), tokens][None],
        }
    )
    read = Bundle.read(bundle)
    return read.require_promise().judge(read.scorer(shown)).pvalues


@pytest.mark.parametrize("method", [GENERATE, STREAM])
def test_what_was_asked_for_is_judged_and_taken_out_again(method: str, bundle: Path) -> None:
    with engine() as (served, address), running(config(address, bundle)) as relay:
        with grpc.insecure_channel(relay.target) as channel:
            for seed in range(12):
                received, verdict, code = ask(channel, method, Request(request_id=f"{seed}:1"))
                assert code is grpc.StatusCode.OK
                assert verdict.unscored is None and verdict.pvalues == pytest.approx(expected(bundle, seed), rel=1e-4)
                outputs = [response.outputs for response in received]
                text = "".join(output.text for output in outputs)
                assert text == "".join(f"t{token} " for token in answer(seed)[0])
                assert not any(o.logprobs or o.ranks or o.candidate_tokens or o.token_ids for o in outputs)
                assert outputs[-1].finish_info.num_output_tokens == 12
            ids = Request(request_id="3", response={"output_token_ids": True})
            received, verdict, _ = ask(channel, method, ids)
            assert [i for response in received for i in response.outputs.token_ids] == answer(3)[0]
            assert not any(response.outputs.logprobs for response in received) and verdict.unscored is None
            wish = Request(
                request_id="4",
                response={"output_logprobs": True, "output_token_ids": True, "output_candidates": {"top_n": K}},
            )
            received, verdict, _ = ask(channel, method, wish)
            assert sum(len(response.outputs.candidate_tokens) for response in received) == 12
            assert verdict.pvalues == pytest.approx(expected(bundle, 4), rel=1e-4)
    first = served.requests[0].response
    assert first.output_logprobs and first.output_token_ids and first.output_candidates.top_n == K
    assert served.requests[-1] == wish


def parts(seed: int, amount: int, temperature: float = 1.0) -> Any:
    """One message with the log-probabilities of a whole answer."""
    from benchmarks.harness.vllm_inference import Engine

    request = Request(
        response={"output_logprobs": True, "output_token_ids": True, "output_candidates": {"top_n": amount}}
    )
    response = Response()
    tokens, rows = answer(seed, temperature=temperature)
    for place in range(len(tokens)):
        Engine._fill(response.outputs, request, tokens, rows, place)
    return response


class Part:
    def __init__(self, message: Any) -> None:
        self.message, self.sequence = message, 0


@pytest.mark.parametrize("temperature", [0.5, 1.0, 5.0])
@pytest.mark.parametrize("amount", [1, 2, 5, 20, VOCABULARY])
def test_the_token_said_is_put_back_among_the_likeliest(amount: int, temperature: float) -> None:
    """Whatever its rank, and where logits tie: what is read is what the model has, or nothing where nobody can know."""
    read = likeliest(Response.DESCRIPTOR, OTHERS, OTHERS)
    refused = 0
    for seed in range(200):
        message = parts(seed, amount, temperature)
        assert all(len(place.tokens) in (amount - 1, amount) for place in message.outputs.candidate_tokens)
        try:
            values = read([Part(message)], 0)
        except Unscored as why:
            assert why.reason == "shape"
            refused += 1
            continue
        if values is None or values.shape[1] != amount:
            refused += 1
            continue
        np.testing.assert_allclose(values.values, top(seed, amount, temperature), rtol=1e-6)
    assert refused <= (40 if amount < 5 else 20 if temperature == 5 else 0)


def test_choices_count_the_token_that_was_said(bundle: Path, tmp_path: Path) -> None:
    del bundle
    choices = [[1, 2], [3], [4, 5, 6]]
    rows = {"choice_probs": np.random.default_rng(0).dirichlet(np.ones(3), 300)}
    scorer = compile([parse("max_softmax:choice_probs")], fit_on=Observations(rows))
    Bundle(scorer, calibrate(scorer(Observations(rows)), {"warning": 0.1}, detectors=scorer.detectors), "m").write(
        tmp_path / "choices.tocsin"
    )
    guard = tocsin.Guard.open(
        config("127.0.0.1:1", tmp_path / "choices.tocsin", signals={"choice_probs": {"choices": choices, "at": 0}})
    )
    model = guard.models["m"]
    for seed in range(40):
        message = parts(seed, VOCABULARY)
        opened = [model.served[GENERATE].open(message.SerializeToString(), None)]
        _, family, raws = model.readers.by_method[GENERATE].read(opened, None)
        probs = np.exp(answer(seed)[1][0])
        mass = np.array([probs[ids].sum() for ids in choices])
        np.testing.assert_allclose(family.stack([raws])["choice_probs"][0], mass / mass.sum(), rtol=1e-5)
    message.outputs.ClearField("token_ids")
    with pytest.raises(Unscored, match="no values for the signal 'choice_probs'"):
        model.readers.by_method[GENERATE].read([model.served[GENERATE].open(message.SerializeToString(), None)], None)


def test_a_stream_ends_at_an_alarm_with_a_last_message(tmp_path: Path) -> None:
    """Token by token: what comes after a token that safe answers do not say is not delivered, and the server stops."""
    logs = np.log(np.random.default_rng(1).uniform(0.2, 1, (400, 1)))
    scorer = compile([parse("max_surprisal")], fit_on=Observations({"token_logprobs": logs}))
    promise = calibrate(scorer(Observations({"token_logprobs": logs})), {"critical": 0.01}, detectors=scorer.detectors)
    Bundle(scorer, promise, "m").write(tmp_path / "each.tocsin")
    ending = {"outputs": {"finish_info": {"finish_reason": "ABORTED"}}}
    policy = {"judge": "message", "on_alarm": {"critical": "block"}, "block": {"ending": ending}}
    with engine() as (_, address), running(config(address, tmp_path / "each.tocsin", "enforce", **policy)) as relay:
        with grpc.insecure_channel(relay.target) as channel:
            tokens, rows = answer(6, temperature=5.0)
            said = rows[range(len(tokens)), tokens]
            strange = next(place for place, log in enumerate(said) if log < -2.5)
            received, verdict, code = ask(channel, STREAM, Request(request_id="6:5"))
            texts = [response.outputs.text for response in received if response.outputs.text]
            assert texts == [f"t{token} " for token in tokens[:strange]]
            assert code is grpc.StatusCode.OK and verdict.action == "block"
            assert received[-1].outputs.finish_info.finish_reason == 3
            assert not any(response.outputs.logprobs for response in received)


def test_likeliest_tokens_are_recorded_without_a_path(bundle: Path, tmp_path: Path) -> None:
    with engine() as (_, address):
        recorder = Recorder.open(config(address, bundle, "observe"))
        recorder.start(tmp_path, 100)
        with running(recorder.guard.config, recorder.guard) as relay, grpc.insecure_channel(relay.target) as channel:
            for seed in range(4):
                ask(channel, STREAM, Request(request_id=str(seed)))
        recorder.close()
    recorded = read_recording(tmp_path).load()
    np.testing.assert_allclose(recorded["top_logprobs"].reshape(4, 12, K), [top(seed) for seed in range(4)], rtol=1e-5)
    assert recorded["token_ids"].astype(int).tolist() == [answer(seed)[0] for seed in range(4)]


@pytest.mark.parametrize(
    ("place", "message"),
    [
        (
            {"others": "response.outputs.logprobs"},
            "write the likeliest tokens besides the sampled one as {others: PATH, said: PATH, ranks: PATH}",
        ),
        ({"others": "response.a", "said": "x", "ranks": "response.b"}, "expected request.inputs.NAME"),
    ],
)
def test_places_that_say_too_little_are_refused_in_words(place: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        signal_path(place)


def test_lists_that_do_not_fit_each_other_are_unscored() -> None:
    read = likeliest(Response.DESCRIPTOR, OTHERS, OTHERS)
    message = parts(1, 3)
    del message.outputs.ranks[-1]
    with pytest.raises(Unscored, match="of 12 places, of 12 said"):
        read([Part(message)], 0)
    assert read([Part(Response())], 0) is None
