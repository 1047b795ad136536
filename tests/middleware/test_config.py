"""Claims about the configuration: what is accepted, what is refused, and in which words."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import pytest

from tocsin.configuration.config import Config
from tocsin.configuration.fields import Address
from tocsin.errors import ConfigError
from tocsin.judgement.guard import Guard

MINIMAL = "models:\n  digits:\n    signals: {probs: response.outputs.predict_proba}\n"


def written(folder: Path, text: str) -> Path:
    path = folder / "tocsin.yaml"
    path.write_text(text)
    return path


def test_a_minimal_file_has_defaults_that_serve(tmp_path: Path) -> None:
    config = Config.load(written(tmp_path, MINIMAL))
    assert config.mode == "observe"
    assert config.listen == Address("0.0.0.0", 8001)
    assert config.metrics is not None and config.metrics.host == "127.0.0.1"
    assert config.scoring_budget == timedelta(milliseconds=5)


def test_units_addresses_and_bundles_are_read(tmp_path: Path) -> None:
    config = Config.load(
        written(
            tmp_path,
            "listen: unix:/run/t.sock\nupstream: '[::1]:9000'\nscoring_budget: 250us\ndrain: 2m\nmax_message: 1MiB\n"
            "metrics: null\n" + MINIMAL + "    bundle: sub/x.tocsin\n    session: metadata.x-session-id\n",
        )
    )
    assert str(config.listen) == "unix:/run/t.sock"
    assert config.upstream == Address("::1", 9000) and str(config.upstream) == "[::1]:9000"
    assert (config.scoring_budget, config.drain) == (timedelta(microseconds=250), timedelta(minutes=2))
    assert config.max_message == 1 << 20 and config.metrics is None
    assert config.models["digits"].bundle == tmp_path / "sub/x.tocsin"


def test_the_environment_overrides_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOCSIN_UPSTREAM", "model:1234")
    monkeypatch.setenv("TOCSIN_MODELS__DIGITS__BUNDLE", "/elsewhere.tocsin")
    config = Config.load(written(tmp_path, "upstream: other:1\n" + MINIMAL))
    assert config.upstream == Address("model", 1234)
    assert config.models["digits"].bundle == Path("/elsewhere.tocsin")
    assert config.models["digits"].signals["probs"].path == "outputs.predict_proba"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "must hold settings by name"),
        ("models: [", "is not YAML"),
        ("listen: 1:2\n", "models: is required"),
        ("models: {}\n", "models: "),
        (MINIMAL + "lisen: a:1\n", "lisen: there is no such setting; `tocsin config schema` lists them"),
        (MINIMAL + "listen: nowhere\n", "listen: expected HOST:PORT or unix:/PATH, not 'nowhere'"),
        (MINIMAL + "listen: host:70000\n", "listen: expected HOST:PORT"),
        (MINIMAL + "mode: strict\n", "mode: "),
        (MINIMAL + "scoring_budget: 5\n", "scoring_budget: expected a time with its unit, such as 5ms or 30s, not '5'"),
        (
            MINIMAL + "    session: x\n",
            "models.digits.session: expected metadata.KEY with a lower-case key, or request.PATH of a field, not 'x'",
        ),
        (
            "models: {digits: {signals: {probs: predict_proba}}}\n",
            "models.digits.signals.probs: expected request.inputs.NAME or response.outputs.NAME, or the path of a "
            "field in request or response, not 'predict_proba'",
        ),
        ("models: {digits: {signals: {}}}\n", "models.digits.signals: "),
    ],
)
def test_a_mistake_is_told_with_file_path_and_expectation(tmp_path: Path, text: str, told: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        Config.load(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert told in str(caught.value)


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no such file"):
        Config.load(tmp_path / "none.yaml")


def test_a_signal_that_the_bundle_reads_must_be_mapped(tmp_path: Path, bundle: Path) -> None:
    config = Config.load(written(tmp_path, MINIMAL + f"    bundle: {bundle}\n"))
    with pytest.raises(ConfigError, match=r"models\.digits\.signals: the bundle's detectors read 'embedding'"):
        Guard.open(config)


def test_the_schema_describes_every_setting() -> None:
    schema = Config.model_json_schema()
    model = schema["$defs"]["ModelConfig"]
    for name, setting in {**schema["properties"], **model["properties"]}.items():
        assert setting.get("description"), f"{name} is not described"
    json.dumps(schema)
