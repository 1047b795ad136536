"""The reference of the Python API: every name of the packages' `__all__`, for mkdocstrings to fill in."""

from __future__ import annotations

import json

import tocsin
import tocsin.testing
import tocsin_calibration
import tocsin_detectors

PACKAGES = {
    tocsin: "Guarding channels and servers, and reading verdicts.",
    tocsin_calibration: "What a score means: thresholds, p-values, risk, and the bundle that carries them.",
    tocsin_detectors: "Detectors, one class each, and the graph that they are compiled to. "
    "[Detectors](../detectors.md) says what each reads, when it works and when it fails.",
    tocsin.testing: "For tests: a model server and a guard on free ports, and the contract that every detector keeps. "
    "[Test what you build](../testing.md) shows how.",
}
_ELSEWHERE = {  # where a module has the name of what it defines, or the name is imported late
    "tocsin.Guard": "tocsin.judgement.guard.Guard",
    "tocsin.verdict": "tocsin.inprocess.reading.verdict",
}
_MEMBERS = {  # of these the other methods are the relay's business, or grpc's
    "tocsin.Guard": ["open"],
    "tocsin.testing.ServedGuard": ["metrics", "metric", "call"],
    "tocsin.testing.ServedModel": [],
}
_INTRODUCTION = """# Python API

Generated from the docstrings. [Python](../python.md) shows how the parts are used together.
"""


def page() -> str:
    """The page, in Markdown with mkdocstrings' directives."""
    lines = [_INTRODUCTION]
    for package, summary in PACKAGES.items():
        lines += [f"## `{package.__name__}`", "", summary, ""]
        for name in package.__all__:
            public = f"{package.__name__}.{name}"
            lines.append(f"::: {_ELSEWHERE.get(public, public)}")
            options = {"heading": public} | ({"members": _MEMBERS[public]} if public in _MEMBERS else {})
            lines.append(f"    options: {json.dumps(options)}")
            lines.append("")
    return "\n".join(lines)


def places(package: str, name: str) -> list[str]:
    """The anchors under which the page may have a public name."""
    public = f"{package}.{name}"
    return [public, _ELSEWHERE.get(public, public)]
