"""Claims about ratings that move over time: found as drift where no alarm is raised, and not found where none move."""

from __future__ import annotations

from math import log

import numpy as np
import pytest
from numpy.typing import NDArray
from prometheus_client.registry import CollectorRegistry
from tests.command import tocsin as command

from tocsin.configuration.config import Config
from tocsin.judgement.sink import Sinks
from tocsin.opinions.asking import DrawnCall
from tocsin.opinions.models import OpinionJudge, opinion_models
from tocsin.sinks.prometheus import PrometheusSink

ABOUT = DrawnCall("/a.B/C", b"{}", [b"{}"], "", "", "", "", "share", 0.0)
DELTA = 0.01


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """An opinion with a promise of 10%, whose calibration scores are uniform from 0 to 4."""
    folder = tmp_path_factory.mktemp("promise")
    (folder / "scores.csv").write_text("rating\n" + "".join(f"{score:.6f}\n" for score in np.linspace(0, 4, 500)))
    command(
        "promise", folder / "scores.csv", "--score", "rating", "--alpha", "0.1", "--share", "1.0",
        "-o", folder / "rating.tocsin",
    )  # fmt: skip
    rating = {"kind": "rating", "bundle": str(folder / "rating.tocsin")}
    second = {"judge": {"url": "http://127.0.0.1:9/v1", "model": "judge"}, "opinions": {"rating": rating}}
    return Config(upstream="127.0.0.1:9", models={"m": {"protocol": "openai", "second_opinion": second}})


def drift_of(config: Config, ratings: NDArray[np.float64]) -> tuple[float, int]:
    """The log of the evidence of drift that a scrape shows behind these ratings, and how many of them alarmed."""
    models = opinion_models(config)
    sink = PrometheusSink(models)
    judge = OpinionJudge(config, models, Sinks([sink]))
    severities = [judge.judge("m:rating", rating, ABOUT, 0) for rating in ratings.tolist()]
    registry = CollectorRegistry()
    registry.register(sink)
    value = registry.get_sample_value("tocsin_drift_log_evalue", {"model": "m:rating"})
    assert value is not None
    return value, len(severities) - severities.count("none")


@pytest.mark.parametrize("direction", [1, -1], ids=["worse", "better"])
def test_ratings_that_move_slowly_are_drift_although_none_alarms(config: Config, direction: int) -> None:
    draws = np.random.default_rng(1).random(600)
    narrowing = 1.7 * draws + np.linspace(0, 1.7, 600)  # from the better half of the scale to the worse one
    evidence, alarms = drift_of(config, narrowing if direction > 0 else narrowing[::-1])
    assert evidence > log(1 / DELTA)
    assert alarms == 0


def test_ratings_like_those_of_calibration_are_no_drift(config: Config) -> None:
    evidence, alarms = drift_of(config, 4 * np.random.default_rng(2).random(600))
    assert evidence < log(1 / DELTA)
    assert alarms > 0
