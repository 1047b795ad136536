"""A promise as what a bundle file holds: facts for the manifest, and arrays."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tocsin_calibration.errors import BundleError
from tocsin_calibration.online.inputs import BLOCK, InputsReference
from tocsin_calibration.promise import Promise
from tocsin_calibration.sessions.bands import Band
from tocsin_calibration.sessions.rule import SessionRule
from tocsin_calibration.sessions.windows import Window
from tocsin_calibration.thresholds.classes import Classes
from tocsin_calibration.thresholds.ordered import Ordered
from tocsin_calibration.thresholds.smoothing import seed_of
from tocsin_calibration.thresholds.terms import Guarantee

Arrays = dict[str, NDArray[np.float64]]
INPUTS = "inputs_centre", "inputs_axes", "inputs_distance", "inputs_rows"


def facts_of(promise: Promise) -> dict[str, Any]:
    """What the manifest says of a promise: all of it but the arrays."""
    sessions = promise.sessions
    return {
        "rule": promise.rule,
        "n": promise.n,
        "alphas": promise.alphas,
        "confidence": promise.terms.confidence,
        "contaminated": promise.terms.contaminated,
        "else_average": promise.terms.else_average,
        "groups": {name: limits.n for name, limits in promise.groups.items()},
        "pooled": list(promise.pooled),
        "others": None if promise.others is None else promise.others.n,
        "auxiliary": promise.auxiliary,
        "normalised": promise.normalised,
        "fits_tails": promise.fits_tails,
        **({} if promise.inputs is None else {"inputs": list(promise.inputs.signals)}),
        **({} if promise.classes is None else {"classes": promise.classes._asdict()}),
        "sessions": sessions
        and {
            "style": sessions.style,
            "window": sessions.window.width,
            "how": sessions.window.how,
            "every": sessions.every,
        },
    }


def arrays_of(promise: Promise) -> Arrays:
    """The arrays of a promise by name."""
    arrays = {"reference": promise.reference, "nonconformity": promise.nonconformity.scores}
    if promise.inputs is not None:
        _, *parts = promise.inputs
        arrays |= dict(zip(INPUTS, parts, strict=True))
    if promise.scales is not None:
        arrays["scales"] = promise.scales
    if promise.nonconformity.cumulative_counts is not None:
        arrays["upto"] = promise.nonconformity.cumulative_counts.astype(np.float64)
    if promise.groups:
        arrays["groups"] = np.concatenate([limits.scores for limits in promise.groups.values()])
    if promise.others is not None:
        arrays["others"] = promise.others.scores
    if promise.limits.clustered is not None:
        arrays["clusters"] = promise.limits.clustered.members
    elif promise.limits.weighted is not None:
        arrays["weights"] = promise.limits.weighted.weights
    if promise.combination is not None:
        arrays["combination"] = promise.combination
    if promise.sessions is not None and promise.sessions.band is not None:
        arrays["centre"], arrays["spread"] = promise.sessions.band
    return arrays


def promise_from(facts: Mapping[str, Any], arrays: Arrays, detectors: tuple[str, ...], digest: str) -> Promise:
    """The promise that was written; what older bundles lack is drawn from their digest. Raises BundleError or
    CalibrationError when its parts do not fit each other.
    """
    reference = arrays["reference"]
    if reference.ndim != 2 or reference.shape[1] != len(detectors):
        raise BundleError(f"was calibrated for another graph: reference scores of shape {reference.shape}, but "
                          f"{len(detectors)} detectors")  # fmt: skip
    scales = arrays.get("scales")
    if scales is not None and (scales.ndim != 2 or scales.shape[1] != len(detectors) or not len(scales)):
        raise BundleError(f"has scales of shape {scales.shape} for {len(detectors)} detectors")
    sizes = {str(name): int(n) for name, n in facts["groups"].items()}
    grouped = arrays.get("groups", np.zeros(0))
    if sum(sizes.values()) != len(grouped):
        raise BundleError(f"names groups of {sum(sizes.values())} responses in all, but holds {len(grouped)}")
    parts = np.split(grouped, np.cumsum(list(sizes.values()))[:-1]) if sizes else []
    return Promise(
        reference,
        Ordered.from_counts(arrays["nonconformity"], arrays["upto"]) if "upto" in arrays else arrays["nonconformity"],
        {str(name): float(alpha) for name, alpha in facts["alphas"].items()},
        str(facts["rule"]),
        detectors,
        terms=Guarantee(facts["confidence"], float(facts["contaminated"]), bool(facts.get("else_average", False))),
        weights=arrays.get("weights"),
        clusters=arrays.get("clusters"),
        normalised=bool(facts.get("normalised", False)),
        groups=dict(zip(sizes, parts, strict=True)),
        pooled=[str(name) for name in facts["pooled"]],
        others=arrays.get("others"),
        combination=arrays.get("combination"),
        sessions=_sessions(facts["sessions"], arrays),
        scales=scales,
        inputs=_inputs(facts["inputs"], arrays) if "inputs" in facts else None,
        classes=_classes(facts["classes"]) if "classes" in facts else None,
        fits_tails=bool(facts.get("fits_tails", False)),  # thresholds of older bundles are on their own scale
        auxiliary=int(facts["auxiliary"]) if "auxiliary" in facts else seed_of(digest.encode()),
    )


def _sessions(facts: Mapping[str, Any] | None, arrays: Arrays) -> SessionRule | None:
    """The rule by which sessions are judged, None for responses. Raises BundleError."""
    if facts is None:
        return None
    band = None
    if facts["style"] == "band":
        centre, spread = arrays["centre"], arrays["spread"]
        if centre.ndim != 1 or centre.shape != spread.shape or not len(centre) or not (spread > 0).all():
            raise BundleError("has a band whose course and spread do not fit each other")
        band = Band(centre, spread)
    every = None if facts["every"] is None else int(facts["every"])
    return SessionRule(Window(int(facts["window"]), facts["how"]), facts["style"], every, band)


def _inputs(names: list[str], arrays: Arrays) -> InputsReference:
    """The reference of watched inputs. Raises BundleError where its arrays do not fit each other."""
    centre, axes, distance, rows = (arrays[name] for name in INPUTS)
    fits = axes.ndim == 2 and centre.shape == axes.shape[:1] and axes.shape[1] and distance.shape == (3,)
    fits = (
        fits
        and rows.ndim == 2
        and len(rows) >= BLOCK
        and rows.shape[1] == axes.shape[1] + 1
        and (distance[1:] > 0).all()
    )
    if not fits or not names:
        raise BundleError("watches inputs by directions and responses that do not fit each other")
    return InputsReference(tuple(map(str, names)), centre, axes, distance, rows)


def _classes(facts: Mapping[str, Any]) -> Classes:
    signal, width = str(facts["signal"]), int(facts["width"])
    if not signal or width < 1:
        raise BundleError(f"has classes by a signal '{signal}' of {width} numbers")
    return Classes(signal, width)
