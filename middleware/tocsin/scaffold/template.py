"""The text of a first configuration, with comments on what to change."""

from __future__ import annotations

import itertools
import json
from collections.abc import Container, Iterable, Mapping, Sequence

from tocsin.protocols.protocol import preset
from tocsin.scaffold.asking import MethodOutline, Output

FLOATS = ("FP16", "BF16", "FP32", "FP64")
USUAL = {  # parts of names that outputs have, and the signal that detectors know them as; the first counts
    "logprob": "token_logprobs",
    "log_prob": "token_logprobs",
    "logit": "logits",
    "prob": "probs",
    "softmax": "probs",
    "embed": "embedding",
    "feature": "embedding",
    "hidden": "embedding",
}

PLACES = {"lerobot": "actions: {safetensors: response.data, tensor: actions}"}  # of protocols that know none


def head(upstream: str, why: str) -> str:
    """The lines that stand above the models."""
    return f"""\
# {why}
# Each key: docs/configuration.md. `tocsin config check` finds mistakes before anything is served.
listen: 127.0.0.1:9080          # callers connect here, instead of to the model server
upstream: {upstream:<21} # the model server
mode: observe                   # observe: nothing changes; annotate: verdicts in trailing metadata; enforce: they act
metrics: 127.0.0.1:9464         # Prometheus scrapes /metrics here; a page is at /
"""


def head_in_program(why: str) -> str:
    """The same for a program that guards its own calls: nothing listens."""
    return f"""\
# {why}
# For a program that guards its own calls (docs/http.md). Each key: docs/configuration.md.
mode: observe                   # observe: nothing changes; annotate: verdicts in a header; enforce: they act
"""


def of_models(models: Mapping[str, Sequence[Output]]) -> str:
    """The section `models` of the configuration, for a server that speaks the Open Inference Protocol: each float
    output becomes a signal, named as detectors know it; others are listed in a comment.
    """
    lines = ["models:"]
    for name, outputs in models.items():
        lines += [f"  {_quoted(name)}:", "    signals:                    # NAME: where it stands in the response"]
        floats = [output for output in outputs if output.datatype in FLOATS]
        used: set[str] = set()
        for output in floats:
            signal = _signal(output.name, used)
            used.add(signal)
            where = f"{_quoted(signal)}: response.outputs{_place(output.name)}"
            lines.append(f"      {where:<40}  # {output.datatype} {list(output.shape)}")
        if not floats:
            lines.append("      probs: response.outputs.probs             # the server names no outputs: write yours")
        others = ", ".join(f"{output.name} {output.datatype}" for output in outputs if output.datatype not in FLOATS)
        if others:
            lines.append(f"    # no numbers to judge by: {others}")
        lines.append(_bundle(name))
    return "\n".join(lines) + "\n"


def of_methods(methods: Iterable[MethodOutline]) -> str:
    """A service of one's own, as its server describes it. Methods without floating-point numbers are left out.

    A bundle reads the same signals of every response that it judges. Methods that answer with others therefore get a
    protocol and a model of their own.
    """
    alike: dict[tuple[str, ...], list[tuple[MethodOutline, dict[str, str]]]] = {}
    for method in methods:
        if signals := _signals(method):
            alike.setdefault(tuple(signals), []).append((method, signals))
    lines, named = ["protocols:"], dict[str, str]()
    for together in alike.values():
        name = "own" if len(alike) == 1 else _unused(together[0][0].path.rpartition("/")[2].lower(), named)
        named[name] = _bundle(name)
        lines += [
            f"  {_quoted(name)}:",
            "    reflection: true            # or descriptors: FILE.binpb (docs/protocols.md)",
            "    methods:",
        ]
        for method, signals in together:
            lines.append(f"      {method.path}:")
            if method.streams:
                lines.append("        judge: message          # each message; a number of them; end: the whole stream")
            lines.append("        signals:                # NAME: where it stands in the response")
            lines += [f"          {_quoted(signal)}: {place}" for signal, place in signals.items()]
            lines += [f"          # a map, whose keys you name in their order: {m}[KEY,KEY]" for m in method.maps]
    lines.append("models:                         # name them as you like")
    for name, bundle in named.items():
        lines += [f"  {_quoted(name)}:", f"    protocol: {_quoted(name)}", bundle]
    return "\n".join(lines) + "\n"


def _signals(method: MethodOutline) -> dict[str, str]:
    """Where each signal stands; of a response with nothing but maps, with keys to be written in."""
    signals: dict[str, str] = {}
    for place in method.numbers or [f"{place}[KEY,KEY]" for place in method.maps]:
        signals[_signal(place.partition("[KEY")[0].rpartition(".")[2], set(signals))] = place
    return signals


def _unused(name: str, used: Container[str]) -> str:
    """The name, with a number behind it where it is taken."""
    numbered = (f"{name}_{number}" for number in itertools.count(2))
    return next(free for free in itertools.chain([name], numbered) if free not in used)


def of_preset(protocol: str, model: str) -> str:
    """A protocol that Tocsin ships, whose methods define where signals are."""
    signals = sorted({name for method in preset(protocol).values() for name in getattr(method, "signals", {})})
    lines = ["models:", f"  {_quoted(model)}:", f"    protocol: {protocol}"]
    if signals:
        lines.append(f"    # the protocol knows where these stand: {', '.join(signals)}")
    else:
        place = PLACES.get(protocol, "probs: response.outputs.probs")
        lines += ["    signals:                    # NAME: where it stands in the response", f"      {place}"]
    lines.append(_bundle(model))
    return "\n".join(lines) + "\n"


def _bundle(model: str) -> str:
    file = "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in model)
    return f"    # bundle: {file}.tocsin      # once tocsin fit and tocsin calibrate have made it"


def _signal(name: str, used: set[str]) -> str:
    """The name by which detectors read an output; the output's own where that is unknown or taken."""
    usual = next((signal for part, signal in USUAL.items() if part in name.lower()), name)
    return name if usual in used else usual


def _place(name: str) -> str:
    return f".{name}" if name.replace("_", "").isalnum() else f"[{name}]"


def _quoted(text: str) -> str:
    """A key or value of YAML."""
    return text if text.replace("_", "").replace("-", "").isalnum() and not text.isdigit() else json.dumps(text)
