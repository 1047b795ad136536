"""Claims about paths into maps: several keys are a vector in the order in which the path names them."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tocsin.configuration.config import Config
from tocsin.errors import ConfigError
from tocsin.judgement.guard import Guard
from tocsin.protocols import oip
from tocsin.protocols.field_paths import resolve


def message(**parameters: int) -> Any:
    response = oip.Response(model_name="m")
    for name, value in parameters.items():
        response.parameters[name].int64_param = value
    return response


def test_several_keys_of_a_map_are_one_axis_in_the_order_of_the_path() -> None:
    path = resolve(oip.Response.DESCRIPTOR, "parameters[dog, cat].int64_param")
    assert path.follow(message(cat=1, bird=2, dog=3)) == [3, 1]
    assert not path.by_rows and path.numeric


def test_a_message_that_lacks_one_of_the_keys_has_no_value() -> None:
    assert resolve(oip.Response.DESCRIPTOR, "parameters[dog,cat].int64_param").follow(message(cat=1)) is None


@pytest.mark.parametrize("path", ["parameters", "parameters[].int64_param", "parameters[*].int64_param"])
def test_a_map_without_keys_is_refused_with_what_to_write(path: str) -> None:
    with pytest.raises(ValueError, match=r"is a map.*parameters\[cat,dog,bird\]"):
        resolve(oip.Response.DESCRIPTOR, path)


@pytest.mark.parametrize(
    ("path", "what"), [("parameters[a,b][0].int64_param", "an axis already"), ("parameters[a,a].int64_param", "twice")]
)
def test_keys_that_make_no_vector_are_refused(path: str, what: str) -> None:
    with pytest.raises(ValueError, match=what):
        resolve(oip.Response.DESCRIPTOR, path)


@pytest.mark.skipif(not find_spec("spox"), reason="a bundle is made, which the base install (make test-base) cannot")
@pytest.mark.parametrize(
    ("keys", "message"), [("abcdefghij", ""), ("abc", "names 3 keys: signal 'probs' has width 3, but")]
)
def test_keys_that_cannot_fill_what_detectors_read_are_refused_at_start(bundle: Path, keys: str, message: str) -> None:
    """Else every response is unscored (`shape`), which nobody sees before traffic comes."""
    paths = {"probs": f"response.scores[{','.join(keys)}]", "embedding": "response.hidden"}
    config = Config(
        protocols={"scores": {"methods": {"POST /v1/score": {"signals": paths}}}},
        models={"digits": {"protocol": "scores", "bundle": bundle}},
    )
    if not message:
        assert Guard.open(config).models["digits"]
        return
    with pytest.raises(ConfigError) as caught:
        Guard.open(config)
    assert message in str(caught.value)
