"""Parses a verdict that another party wrote, which is untrusted input.

Everything is bounded: the text, each number, each name, and the number of rows.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

from tocsin.verdict_format import ACTIONS, METADATA_KEY, ROWS_TOLD, Weighed

MAX_TEXT = 16_384  # characters of a verdict; those that Tocsin writes have some 4,000 at most
MAX_NAME = 1_024  # characters of a model's name or version
MAX_DETECTORS = 256
MAX_ROWS = 1 << 31

_WORD = re.compile(r"[A-Za-z0-9_.:-]{1,128}")  # reasons, identifiers, digests
_DIGITS = re.compile(r"[0-9]{1,10}")
_DECISIONS = ("serve", "flag", "abstain")


def read_verdict(text: str | bytes) -> dict[str, Any]:
    """The arguments of a `Verdict`, parsed from the value of `tocsin-verdict`. Raises ValueError where that is not a
    verdict.
    """
    try:
        return _fields(_content(text))
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)[:200]
        raise ValueError(f"'{METADATA_KEY}' does not hold a verdict ({reason})") from None


def _content(text: str | bytes) -> dict[str, Any]:
    if len(text) > MAX_TEXT:
        raise ValueError(f"it has {len(text):,} characters, more than {MAX_TEXT:,}")
    content = json.loads(text, parse_int=_integer, parse_float=_number, parse_constant=_constant)
    if not isinstance(content, dict):
        raise ValueError("it is no JSON object")
    return content


def _fields(content: Mapping[str, Any]) -> dict[str, Any]:
    model, version = _name(content, "model"), _name(content, "version", "")
    if not model:
        raise ValueError("it names no model")
    wanted = content.get("action")
    action = wanted if isinstance(wanted, str) and wanted in ACTIONS else None
    if content.get("unscored") is not None:
        unscored = _word(content, "unscored")
        return {"model": model, "version": version, "pvalues": [], "unscored": unscored, "action": action}
    severity = None if content.get("alarm") is None else _severity(content, "alarm")
    pvalues = _numbers(content, "p", 0.0, 1.0)
    if not pvalues:
        raise ValueError("p holds no p-value")
    rows = content.get("rows", len(pvalues))
    if not isinstance(rows, int) or isinstance(rows, bool) or not len(pvalues) <= rows <= MAX_ROWS:
        raise ValueError("rows is not the number of rows")
    details = _mapping(content, "detectors")
    if len(details) > MAX_DETECTORS:
        raise ValueError(f"detectors holds more than {MAX_DETECTORS}")
    by_detector = {_text(name, "a detector's name"): _in(p, "detectors", 0.0, 1.0) for name, p in details.items()}
    return {
        "model": model,
        "version": version,
        "bundle": _word(content, "bundle") if content.get("bundle") else "",
        "pvalues": pvalues,
        "severities": _severities(content, severity, len(pvalues), rows),
        "detectors": tuple(by_detector),
        "details": list(by_detector.values()),
        "severity": severity,
        "weighed": _weighed(content, len(pvalues)) if "decide" in content else None,
        "identifier": _word(content, "id") if content.get("id") else "",
        "action": action,
        "rows": rows,
    }


def _severities(content: Mapping[str, Any], worst: str | None, listed: int, rows: int) -> list[str | None]:
    severities: list[str | None] = [None] * listed
    if rows == 1:
        severities[0] = worst
    alarmed = _mapping(content, "alarmed")
    for row in alarmed:
        if not _DIGITS.fullmatch(row) or int(row) >= rows:
            raise ValueError("alarmed names a row that there is not")
        if int(row) < listed:
            severities[int(row)] = _severity(alarmed, row)
    return severities


def _weighed(content: Mapping[str, Any], rows: int) -> Weighed:
    p_correct, worth = _numbers(content, "p_correct", 0.0, 1.0), _numbers(content, "worth", -math.inf, math.inf)
    decisions = content["decide"]
    if not isinstance(decisions, list) or any(decision not in _DECISIONS for decision in decisions):
        raise ValueError(f"decide holds something else than {', '.join(_DECISIONS)}")
    if not len(p_correct) == len(worth) == len(decisions) == rows:
        raise ValueError("p, p_correct, worth and decide are of different lengths")
    return Weighed(p_correct, worth, decisions)


def _numbers(content: Mapping[str, Any], key: str, least: float, most: float) -> list[float]:
    values = content.get(key)
    if not isinstance(values, list) or len(values) > ROWS_TOLD:
        raise ValueError(f"{key} is no list of at most {ROWS_TOLD} numbers")
    return [_in(value, key, least, most) for value in values]


def _in(value: object, key: str, least: float, most: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        raise ValueError(f"{key} holds something that is no number it may be")
    return float(value)


def _mapping(content: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = content.get(key, {})
    if not isinstance(value, dict):
        raise ValueError(f"{key} is no JSON object")
    return value


def _name(content: Mapping[str, Any], key: str, default: str | None = None) -> str:
    value = content.get(key, default)
    return _text(value, key)


def _text(value: object, what: str) -> str:
    if not isinstance(value, str) or len(value) > MAX_NAME:
        raise ValueError(f"{what} is no text of at most {MAX_NAME:,} characters")
    if not value.isascii() and any("\ud800" <= letter <= "\udfff" for letter in value):
        raise ValueError(f"{what} is no Unicode text")
    return value


def _word(content: Mapping[str, Any], key: str) -> str:
    value = content.get(key)
    if not isinstance(value, str) or not _WORD.fullmatch(value):
        raise ValueError(f"{key} is no word")
    return value


def _severity(content: Mapping[str, Any], key: str) -> str:
    value = _text(content.get(key), "a severity")
    if not value.isprintable() or not value:
        raise ValueError("a severity has no name")
    return value


def _integer(digits: str) -> int:
    if len(digits) > 20:
        raise ValueError("a number is too long")
    return int(digits)


def _number(digits: str) -> float:
    value = float(digits[:64])
    if len(digits) > 64 or not math.isfinite(value):
        raise ValueError("a number is too large")
    return value


def _constant(name: str) -> float:
    raise ValueError(f"{name} is no number")
