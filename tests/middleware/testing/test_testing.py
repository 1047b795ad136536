"""Claims about what `tocsin.testing` has for the tests of others: a model server and a guard on free ports."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
import yaml
from benchmarks.harness.parts import INFER, SIGNALS, far_away, safe_traffic

import tocsin
from tocsin.configuration.config import Config
from tocsin.testing import infer_response, serve_guard, serve_model

SAFE = infer_response("digits", {name: values[:1] for name, values in safe_traffic(1).items()})
FAR = infer_response("digits", dict(far_away(1).items()), version="v7")


@pytest.fixture
def config(bundle: Path, tmp_path: Path) -> Path:
    """A configuration as for production: fixed ports, workers, an admin port, further listeners."""
    file = tmp_path / "tocsin.yaml"
    model = {"bundle": str(bundle), "signals": SIGNALS}
    further = [{"listen": "127.0.0.1:8002", "upstream": "127.0.0.1:8082"}]
    content = {"mode": "annotate", "workers": 2, "listeners": further, "models": {"digits": model}}
    content["scoring_budget"] = "60s"
    file.write_text(yaml.safe_dump(content))
    return file


def test_a_guard_judges_what_a_served_model_answers_and_counts_it(config: Path) -> None:
    with serve_model({INFER: lambda request: FAR if request == b"far" else SAFE}) as model:
        with serve_guard(config, upstream=model.address) as guarded, grpc.insecure_channel(guarded.target) as channel:
            infer = channel.unary_unary(INFER)
            _, calm = infer.with_call(b"safe", timeout=60)
            response, alarmed = infer.with_call(b"far", timeout=60)
            assert response == FAR
            verdicts = tocsin.verdict(calm), tocsin.verdict(alarmed)
            assert [verdict.severity for verdict in verdicts if verdict] == [None, "critical"]
            assert guarded.metric("tocsin_responses_total", model="digits") == 2
            assert guarded.metric("tocsin_alarms_total", model="digits", severity="critical") == 1
            assert guarded.metric("tocsin_alarms_total", model="another") == 0
            assert "tocsin_alarms_total" in guarded.metrics
    assert model.requests == [(INFER, b"safe"), (INFER, b"far")]


def test_a_guard_takes_settings_in_each_form_and_leaves_them_as_they_are(config: Path, bundle: Path) -> None:
    loaded = Config.load(config)
    mapping = {"models": {"digits": {"bundle": bundle, "signals": SIGNALS}}, "metrics": None}
    for settings in (loaded, str(config), mapping):
        with serve_guard(settings, upstream="127.0.0.1:1") as guarded:
            assert guarded.target.startswith("127.0.0.1:") and not guarded.target.endswith(":8001")
    with pytest.raises(ValueError, match="there is nothing to read"):
        _ = guarded.metrics
    assert loaded.workers == 2 and str(loaded.listen) == "0.0.0.0:8001"
    with pytest.raises(ValueError, match="expected HOST:PORT"):
        with serve_guard(config, upstream="nowhere"):
            pass


def test_a_body_that_fails_still_ends_the_guard(config: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        with serve_guard(config, upstream="127.0.0.1:1") as guarded:
            _ = 1 / 0
    with grpc.insecure_channel(guarded.target) as channel, pytest.raises(grpc.RpcError) as refused:
        channel.unary_unary(INFER)(b"", timeout=60)
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE


def test_a_served_model_answers_all_four_kinds_of_call() -> None:
    def count(request: bytes) -> Iterator[bytes]:
        yield from (request + b"%d" % number for number in range(3))

    with serve_model({"/acme.Echo/Say": bytes.upper, "/acme.Echo/Count": count, "/acme.Echo/Fixed": b"same"}) as model:
        with grpc.insecure_channel(model.address) as channel:
            assert channel.unary_unary("/acme.Echo/Say")(b"a", timeout=60) == b"A"
            assert list(channel.unary_stream("/acme.Echo/Count")(b"a", timeout=60)) == [b"a0", b"a1", b"a2"]
            assert list(channel.stream_stream("/acme.Echo/Say")(iter([b"a", b"b"]), timeout=60)) == [b"A", b"B"]
            assert channel.stream_unary("/acme.Echo/Fixed")(iter([b"a"]), timeout=60) == b"same"
            with pytest.raises(grpc.RpcError) as unknown:
                channel.unary_unary("/acme.Echo/Else")(b"", timeout=60)
            assert unknown.value.code() is grpc.StatusCode.UNIMPLEMENTED
            model.methods["/acme.Echo/Else"] = b"now"
            assert channel.unary_unary("/acme.Echo/Else")(b"", timeout=60) == b"now"


def test_a_response_of_the_open_inference_protocol_holds_its_signals() -> None:
    from tocsin.protocols import oip

    message = oip.Response.FromString(FAR)
    assert (message.model_name, message.model_version) == ("digits", "v7")
    assert [list(output.shape) for output in message.outputs] == [[1, 10], [1, 8]]
    np.testing.assert_array_equal(np.frombuffer(message.raw_output_contents[1], np.float32), np.full(8, 30))
