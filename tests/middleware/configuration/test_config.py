"""Claims about the configuration: what is accepted, what is refused, and in which words."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import grpc
import pytest

from tocsin.configuration.actions import AbstainConfig
from tocsin.configuration.config import Config
from tocsin.configuration.fields import Address
from tocsin.errors import ConfigError
from tocsin.grpc_wire.status import Status
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
    ("text", "message"),
    [
        ("", "must hold settings by name"),
        ("models: [", "is not YAML"),
        ("listen: 1:2\n", "models: is required"),
        ("models: {}\n", "models: "),
        (MINIMAL + "lisen: a:1\n", "lisen: there is no such setting (did you mean 'listen'?); `tocsin config schema`"),
        (MINIMAL + "listen: nowhere\n", "listen: expected HOST:PORT or unix:/PATH, not 'nowhere'"),
        (MINIMAL + "listen: host:70000\n", "listen: expected HOST:PORT"),
        (MINIMAL + "mode: strict\n", "mode: "),
        (MINIMAL + "    sesion: stream\n", "models.digits.sesion: there is no such setting (did you mean 'session'?)"),
        (MINIMAL + "    judge: ends\n", "models.digits.judge: Input should be 'message' or 'end', or a valid integer"),
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
def test_a_mistake_is_told_with_file_path_and_expectation(tmp_path: Path, text: str, message: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        Config.load(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no such file"):
        Config.load(tmp_path / "none.yaml")


def test_a_signal_that_the_bundle_reads_must_be_mapped(tmp_path: Path, bundle: Path) -> None:
    config = Config.load(written(tmp_path, MINIMAL + f"    bundle: {bundle}\n"))
    with pytest.raises(ConfigError, match=r"models\.digits\.signals: the bundle's detectors read 'embedding'"):
        Guard.open(config)


@pytest.mark.parametrize("status", grpc.StatusCode, ids=lambda status: status.name)
def test_every_status_of_grpc_but_ok_can_stand_in_for_an_answer(status: grpc.StatusCode) -> None:
    assert {ours.name: ours.value for ours in Status} == {code.name: code.value[0] for code in grpc.StatusCode}
    if status is grpc.StatusCode.OK:
        with pytest.raises(ValueError, match="a gRPC status other than OK, such as FAILED_PRECONDITION, not 'OK'"):
            AbstainConfig(status="OK")
    else:
        assert AbstainConfig(status=status.name.lower()).status == status.name


def test_the_schema_describes_every_setting() -> None:
    schema = Config.model_json_schema()
    model = schema["$defs"]["ModelConfig"]
    for name, setting in {**schema["properties"], **model["properties"]}.items():
        assert setting.get("description"), f"{name} is not described"
    json.dumps(schema)


# -- the environment


@pytest.mark.parametrize(
    ("variable", "message"),
    [
        ("TOCSIN_UPSTRAEM", r"TOCSIN_UPSTRAEM: there is no setting 'upstraem'; is TOCSIN_UPSTREAM meant\?"),
        ("TOCSIN_MODELS__DIGITS__BUNDEL", r"models\.digits\.bundel: there is no such setting.*TOCSIN_MODELS__DIGITS__"),
        ("TOCSIN_DRAIN", r"drain: expected a time with its unit.*\(the environment's TOCSIN_DRAIN says so\)"),
    ],
)
def test_a_typo_in_the_environment_is_an_error_that_names_the_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, message: str
) -> None:
    monkeypatch.setenv(variable, "7")
    with pytest.raises(ConfigError, match=message):
        Config.load(written(tmp_path, MINIMAL))


def test_variables_that_are_no_settings_of_tocsins_are_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOCSIN_LOG", "json")
    for service in ("TOCSIN", "TOCSIN_METRICS", "TOCSIN_STATE", "TOCSIN_MODELS"):  # as Kubernetes sets them
        for name, value in {
            "SERVICE_HOST": "10.0.0.1", "SERVICE_PORT": "8001", "SERVICE_PORT_GRPC": "8001",
            "PORT": "tcp://10.0.0.1:8001", "PORT_8001_TCP": "tcp://10.0.0.1:8001", "PORT_8001_TCP_PROTO": "tcp",
            "PORT_8001_TCP_PORT": "8001", "PORT_8001_TCP_ADDR": "10.0.0.1",
        }.items():  # fmt: skip
            monkeypatch.setenv(f"{service}_{name}", value)
    config = Config.load(written(tmp_path, MINIMAL))
    assert config.state is None and config.metrics == Address("127.0.0.1", 9464)


@pytest.mark.parametrize("text", ["null", "~"])
def test_null_in_the_environment_is_the_null_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setenv("TOCSIN_METRICS", text)
    assert Config.load(written(tmp_path, "metrics: 127.0.0.1:1\n" + MINIMAL)).metrics is None


@pytest.mark.parametrize("variable", ["TOCSIN_MODELS__MOBILENET__SESSION", "TOCSIN_MODELS__MobileNet__SESSION"])
def test_names_with_capitals_are_overridden_by_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    path = written(tmp_path, MINIMAL.replace("digits", "MobileNet"))
    monkeypatch.setenv(variable, "stream")
    config = Config.load(path)
    assert list(config.models) == ["MobileNet"] and config.models["MobileNet"].session == "stream"


def test_names_that_no_variable_can_hold_are_found_and_two_that_look_alike_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model_lines = MINIMAL.partition("\n")[2]
    monkeypatch.setenv("TOCSIN_MODELS__RES_NET__SESSION", "stream")
    config = Config.load(written(tmp_path, "models:\n" + model_lines.replace("digits", "res-net")))
    assert config.models["res-net"].session == "stream"
    both = "models:\n" + model_lines.replace("digits", "res-net") + model_lines.replace("digits", "Res.Net")
    with pytest.raises(ConfigError, match=r"'RES_NET' may mean 'res-net' and 'Res\.Net'"):
        Config.load(written(tmp_path, both))


def test_lists_and_objects_in_the_environment_are_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOCSIN_LISTENERS", '[{"listen": "127.0.0.1:7", "upstream": "127.0.0.1:8"}]')
    monkeypatch.setenv("TOCSIN_LISTEN", "[::1]:9")
    config = Config.load(written(tmp_path, MINIMAL))
    assert config.listeners[0].upstream == Address("127.0.0.1", 8) and config.listen == Address("::1", 9)


# -- what does not fit together


def test_a_key_that_stands_twice_is_an_error_that_names_both_lines(tmp_path: Path) -> None:
    for text, message in (
        ("upstream: a:1\nmode: observe\nupstream: b:2\n" + MINIMAL, r"'upstream' stands twice, in lines 1 and 3"),
        (MINIMAL + "    ask: true\n    ask: false\n", r"'ask' stands twice, in lines 4 and 5"),
        (MINIMAL + "  digits: {}\n", r"'digits' stands twice, in lines 2 and 4"),
    ):
        with pytest.raises(ConfigError, match=message):
            Config.load(written(tmp_path, text))


def test_what_anchors_bring_in_may_be_overridden(tmp_path: Path) -> None:
    text = (
        "models:\n  a: &a\n    signals: {probs: response.outputs.p}\n    session: stream\n"
        "  b:\n    <<: *a\n    session: connection\n"
    )
    assert Config.load(written(tmp_path, text)).models["b"].session == "connection"


def test_yaml_that_holds_itself_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nested too deeply|there is no such setting"):
        Config.load(written(tmp_path, MINIMAL + "protocols: &a {x: {methods: *a}}\n"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("upstream: http://a:8081\n", "upstream: expected HOST:PORT or unix:/PATH, not a URL: write 'a:8081'"),
        ("upstream: https://model:443/v2\n", "write 'model:443'; TLS is a setting of its own"),
        ("upstream: model/x:1\n", "upstream: expected HOST:PORT"),
        ("listen: 127.0.0.1:8081\n", "upstream: 127.0.0.1:8081 leads back to 127.0.0.1:8081, where the relay itself"),
        ("listen: 0.0.0.0:8081\nupstream: localhost:8081\n", "leads back to 0.0.0.0:8081"),
        ("listen: '[::]:8081'\n", "leads back to [::]:8081"),
        ("listen: unix:/a\nupstream: unix:/a\n", "leads back to unix:/a"),
        (
            "listen: 127.0.0.1:1\nupstream: 127.0.0.1:2\n"
            "listeners: [{listen: '127.0.0.1:2', upstream: '127.0.0.1:1'}]\n",
            "leads back to 127.0.0.1:1 by way of 127.0.0.1:2",
        ),
        ("metrics: 10.0.0.1:8001\n", "metrics: 10.0.0.1:8001 is the address of listen already"),
        ("admin: 127.0.0.1:9464\n", "admin: 127.0.0.1:9464 is the address of metrics already"),
    ],
)  # fmt: skip
def test_addresses_that_cannot_be_meant_are_errors(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Config.load(written(tmp_path, text + MINIMAL))
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "listen: 0.0.0.0:8081\nupstream: model:8081\n",
        "listen: 0.0.0.0:8081\nupstream: '[::1]:8081'\n",
        "listen: 127.0.0.2:8081\n",
        "listen: unix:/a\nupstream: unix:/b\n",
        "listen: 127.0.0.1:1\nupstream: 127.0.0.1:2\nlisteners: [{listen: '127.0.0.1:2', upstream: '127.0.0.1:3'}]\n",
        "listen: 127.0.0.1:0\nupstream: 127.0.0.1:0\nmetrics: 127.0.0.1:0\nadmin: 127.0.0.1:0\n",
    ],
)
def test_addresses_that_only_look_alike_are_none(tmp_path: Path, text: str) -> None:
    Config.load(written(tmp_path, text + MINIMAL))
