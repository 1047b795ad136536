"""Names of detectors -> classes. A new one of ours is a line here; others register the entry point group."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import entry_points
from inspect import signature
from typing import Any

from tocsin_detectors.detector import Detector
from tocsin_detectors.errors import DetectorError

ENTRY_POINTS = "tocsin.detectors"

BUILT_IN = {
    "abstain_mass": "tocsin_detectors.judges.abstain_mass:AbstainMass",
    "ace": "tocsin_detectors.actions.ace:ActionChunkEntropy",
    "eigenvalue_dispersion": "tocsin_detectors.answers.eigenvalue_dispersion:EigenvalueDispersion",
    "embedding_disagreement": "tocsin_detectors.answers.embedding_disagreement:EmbeddingDisagreement",
    "energy": "tocsin_detectors.confidence.energy:Energy",
    "entropy": "tocsin_detectors.confidence.entropy:Entropy",
    "external": "tocsin_detectors.scores.external:External",
    "gaussian_mixture": "tocsin_detectors.embedding.gaussian_mixture:GaussianMixture",
    "gen": "tocsin_detectors.confidence.gen:GeneralisedEntropy",
    "interval_width": "tocsin_detectors.regression.interval_width:IntervalWidth",
    "isolation_forest": "tocsin_detectors.embedding.isolation_forest:IsolationForest",
    "judge_entropy": "tocsin_detectors.judges.judge_entropy:JudgeEntropy",
    "judge_expectation": "tocsin_detectors.judges.judge_expectation:JudgeExpectation",
    "kl_matching": "tocsin_detectors.confidence.kl_matching:KLMatching",
    "kmeans_distance": "tocsin_detectors.embedding.kmeans_distance:KMeansDistance",
    "knn": "tocsin_detectors.embedding.knn:NearestNeighbours",
    "lexical_disagreement": "tocsin_detectors.answers.lexical_disagreement:LexicalDisagreement",
    "logpzo": "tocsin_detectors.embedding.logpzo:LogpZO",
    "mahalanobis": "tocsin_detectors.embedding.mahalanobis:Mahalanobis",
    "margin": "tocsin_detectors.confidence.margin:Margin",
    "max_logit": "tocsin_detectors.confidence.max_logit:MaxLogit",
    "max_softmax": "tocsin_detectors.confidence.max_softmax:MaxSoftmax",
    "max_surprisal": "tocsin_detectors.tokens.max_surprisal:MaxSurprisal",
    "mean_surprisal": "tocsin_detectors.tokens.mean_surprisal:MeanSurprisal",
    "modality_discrepancy": "tocsin_detectors.modalities.modality_discrepancy:ModalityDiscrepancy",
    "order_swap": "tocsin_detectors.judges.order_swap:OrderSwap",
    "pca_residual": "tocsin_detectors.embedding.pca_residual:PCAResidual",
    "perplexity": "tocsin_detectors.tokens.perplexity:Perplexity",
    "predictive_entropy": "tocsin_detectors.answers.predictive_entropy:PredictiveEntropy",
    "probe": "tocsin_detectors.embedding.probe:Probe",
    "quantile_aggregation": "tocsin_detectors.regression.quantile_aggregation:QuantileAggregation",
    "react": "tocsin_detectors.embedding.react:RectifiedActivations",
    "relative_mahalanobis": "tocsin_detectors.embedding.relative_mahalanobis:RelativeMahalanobis",
    "repetition": "tocsin_detectors.tokens.repetition:Repetition",
    "rnd": "tocsin_detectors.embedding.rnd:RandomNetworkDistillation",
    "sample_variance": "tocsin_detectors.actions.sample_variance:SampleVariance",
    "semantic_entropy": "tocsin_detectors.answers.semantic_entropy:SemanticEntropy",
    "she": "tocsin_detectors.embedding.she:SimplifiedHopfieldEnergy",
    "split_point_classification": "tocsin_detectors.regression.split_point_classification:SplitPointClassification",
    "split_point_regression": "tocsin_detectors.regression.split_point_regression:SplitPointRegression",
    "stac": "tocsin_detectors.actions.stac:OverlapDisagreement",
    "temperature_scaling": "tocsin_detectors.confidence.temperature_scaling:TemperatureScaling",
    "token_entropy": "tocsin_detectors.tokens.token_entropy:TokenEntropy",
    "transitivity": "tocsin_detectors.judges.transitivity:Transitivity",
    "vim": "tocsin_detectors.embedding.vim:VirtualLogit",
    "windowed_surprisal": "tocsin_detectors.tokens.windowed_surprisal:WindowedSurprisal",
}


def names() -> list[str]:
    """Every detector that can be named, those of other installed packages included."""
    return sorted({*BUILT_IN, *(point.name for point in entry_points(group=ENTRY_POINTS))})


def find(name: str) -> type[Any]:
    """The detector class of that name. Raises DetectorError when there is none."""
    if name in BUILT_IN:
        module, _, attribute = BUILT_IN[name].partition(":")
        return getattr(import_module(module), attribute)  # type: ignore[no-any-return]
    for point in entry_points(group=ENTRY_POINTS, name=name):
        return point.load()  # type: ignore[no-any-return]
    raise DetectorError(f"there is no detector '{name}'; there is {', '.join(names())}")


def parse(spec: str) -> Detector:
    """A detector from text: NAME, NAME:SIGNAL to read other signals than usual (joined by + where it reads several),
    and settings of its own, as in `knn:hidden,k=5`.

    Raises DetectorError naming what there is instead.
    """
    head, *settings = spec.split(",")
    name, _, signals = head.partition(":")
    cls = find(name.strip())
    parameters = signature(cls)
    keywords = {}
    for setting in settings:
        key, _, text = setting.partition("=")
        choices = {p.name: p for p in parameters.parameters.values() if p.kind is p.KEYWORD_ONLY}
        if key.strip() not in choices:
            listed = ", ".join(choices) or "none"
            raise DetectorError(f"detector '{name}' has no setting '{key.strip()}' (it has: {listed})")
        keywords[key.strip()] = _value(name, key.strip(), text.strip())
    chosen = [signal.strip() for signal in signals.split("+")] if signals.strip() else []
    try:
        parameters.bind(*chosen, **keywords)
    except TypeError as error:
        raise DetectorError(f"'{spec}': {error}") from None
    detector: Detector = cls(*chosen, **keywords)
    return detector


def _value(detector: str, setting: str, text: str) -> int | float | bool:
    """A setting's value from text: a number, true or false."""
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    raise DetectorError(f"detector '{detector}': {setting} is a number, true or false, not '{text}'")
