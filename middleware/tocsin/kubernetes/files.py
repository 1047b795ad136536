"""Files that a configuration names, and how a pod gets them: in a ConfigMap, mounted, or refused with advice."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path, PurePath
from typing import Any

from tocsin.errors import ConfigError

BUNDLES, SECRETS, DATA = "/bundles", "/etc/tocsin-secrets", "/var/lib/tocsin"  # where they are mounted
CONFIG_FILE = "tocsin.yaml"
MAX_CONFIG_MAP_BYTES = 1_000_000  # bytes in a ConfigMap, whose limit is 1 MiB


class Way(Enum):
    """How a file comes into the pod."""

    BUNDLE = "the volume of --bundles"
    CARRIED = "the ConfigMap itself"
    SECRET = "Secrets that --secret names"
    WRITTEN = "an empty folder of the pod, for what is written"


_TLS = ("certificate", "key", "client_ca")
_UPSTREAM_TLS = ("ca", "certificate", "key")
WAYS = {
    "models.*.bundle": Way.BUNDLE,
    "models.*.shadow": Way.BUNDLE,
    "protocols.*.descriptors": Way.CARRIED,
    "models.*.second_opinion.opinions.*.bundle": Way.BUNDLE,
    **{
        f"models.*.second_opinion.opinions.*.{name}": Way.CARRIED
        for name in ("prompt", "persona", "questions_file", "references", "rubric")
    },
    "models.*.second_opinion.judge.ca": Way.SECRET,
    "models.*.second_opinion.opinions.*.worse.ca": Way.SECRET,
    "models.*.second_opinion.diversity.embedder.ca": Way.SECRET,
    "models.*.second_opinion.agreement.judges.*.ca": Way.SECRET,
    "models.*.second_opinion.sampling_key": Way.SECRET,
    "models.*.second_opinion.scores": Way.WRITTEN,
    "admin_token": Way.SECRET,
    "events.to.*.secret": Way.SECRET,
    "events.to.*.settings": Way.SECRET,
    "opentelemetry.headers": Way.SECRET,
    "opentelemetry.ca": Way.SECRET,
    "state.password": Way.SECRET,
    "state.ca": Way.SECRET,
    "events.to.*.file": Way.WRITTEN,
    "events.spool": Way.WRITTEN,
    "record.to": Way.WRITTEN,
    **{
        f"{place}.{name}": Way.SECRET
        for place in ("tls", "admin_tls", "ext_proc_tls", "listeners.*.tls")
        for name in _TLS
    },
    **{
        f"{place}.{name}": Way.SECRET
        for place in ("upstream_tls", "listeners.*.upstream_tls", "models.*.fallback.tls")
        for name in _UPSTREAM_TLS
    },
}  # every setting that names a file


@dataclass(frozen=True)
class Placed:
    """The settings as a pod reads them, with its own paths; `carried` are files by their names beside the settings."""

    settings: dict[str, Any]
    carried: dict[str, bytes]
    ways: frozenset[Way]


def place_files(settings: Mapping[str, Any], folder: Path, *, bundles: bool, secrets: Sequence[str]) -> Placed:
    """Place every file that the settings name, relative to `folder`.

    Raises ConfigError that names, for each file that cannot get into the pod, the setting and what to do.
    """
    written = copy.deepcopy(dict(settings))
    problems: list[str] = []
    secret: dict[str, str] = {}
    targets: dict[str, str] = {}  # paths in the pod, and the file that is there
    carried: dict[str, bytes] = {}
    ways = set()
    for pattern, way in WAYS.items():
        for holder, key, where in setting_holders(written, pattern.split(".")):
            value, name = str(holder[key]), PurePath(str(holder[key])).name
            if way is Way.BUNDLE and not bundles:
                problems.append(
                    f"{where}: pods have no {value}: say where bundles come from, for example `kubectl create "
                    f"configmap bundles --from-file={value}` and --bundles configmap:bundles"
                )
                continue
            if not re.fullmatch(r"[-._a-zA-Z0-9]+", name):
                problems.append(f"{where}: '{name}' cannot be a key of a ConfigMap or Secret: rename the file")
                continue
            target = {Way.BUNDLE: BUNDLES, Way.SECRET: SECRETS, Way.WRITTEN: DATA, Way.CARRIED: ""}[way] + f"/{name}"
            if targets.setdefault(target, value) != value or target == f"/{CONFIG_FILE}":
                problems.append(f"{where}: {value} would be {target} in the pod, as another file is: rename one")
                continue
            if way is Way.SECRET:
                secret[name] = value
            if way is Way.CARRIED:
                problems += _read(folder / value, where, name, carried)
            ways.add(way)
            holder[key] = name if way is Way.CARRIED else target
    if secret and not secrets:
        files = " ".join(f"--from-file={name}={value}" for name, value in secret.items())
        problems.append(
            f"{', '.join(secret)}: pods have no such files, and secrets do not belong into manifests: `kubectl create "
            f"secret generic tocsin {files}` and --secret tocsin"
        )
    if sum(map(len, carried.values())) > MAX_CONFIG_MAP_BYTES:
        problems.append(
            "descriptors of protocols, or files of opinions, are too large for a ConfigMap: leave out what is not used"
        )
    if problems:
        raise ConfigError("\n".join(problems))
    return Placed(written, carried, frozenset(ways))


def _read(path: Path, where: str, name: str, carried: dict[str, bytes]) -> list[str]:
    try:
        carried[name] = path.read_bytes()
    except OSError as error:
        return [f"{where}: {path} cannot be read, to be carried into the pod ({error.strerror})"]
    return []


def setting_holders(settings: Any, steps: Sequence[str], where: str = "") -> Iterator[tuple[Any, Any, str]]:
    """What holds a setting, its key there, and its path, for every place that is set and fits."""
    step, *rest = steps
    if isinstance(settings, list):
        keys: list[Any] = list(range(len(settings))) if step == "*" else []
    elif isinstance(settings, dict):
        keys = list(settings) if step == "*" else [step] if step in settings else []
    else:
        return
    for key in keys:
        path = f"{where}.{key}" if where else str(key)
        if rest:
            yield from setting_holders(settings[key], rest, path)
        elif settings[key]:
            yield settings, key, path
