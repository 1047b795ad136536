"""Whether a configuration can be served: its bundles and paths, and every file, key and token that it names."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from tocsin.admin import AdminServer
from tocsin.configuration.config import Config
from tocsin.configuration.events import FileTarget
from tocsin.configuration.fields import Address
from tocsin.errors import ConfigError, TocsinError
from tocsin.events.delivery import check_target
from tocsin.judgement.guard import Guard
from tocsin.judgement.model import guarded_models
from tocsin.opinions.models import opinion_models
from tocsin.opinions.questions import questions_of
from tocsin.recording.reading import require_pyarrow
from tocsin.relay.tls import Certificates
from tocsin.state.opening import State
from tocsin.telemetry.exporters import check_exporters
from tocsin.workers.supervisor import check_workers
from tocsin_calibration import CalibrationFault
from tocsin_detectors import DetectorError

MISTAKES = (TocsinError, CalibrationFault, DetectorError, OSError)  # what users can mend


def problems_of(config: Config, *, in_program: bool = False) -> tuple[list[str], Guard | None]:
    """All that keeps a configuration from being served, in words, and its guard where its models can be guarded. With
    `in_program`, all that keeps it from a program that guards its own calls: no port is opened there.
    """
    problems: list[str] = []
    guard: Guard | None = None
    try:
        guard = Guard.open(config)
    except MISTAKES as error:
        problems += [str(error), *_path_problems(config, str(error))]
    if in_program:
        return problems, guard
    for model in guard.models.values() if guard is not None else ():
        if model.config.second_opinion is not None:
            problems += _problem_of(partial(questions_of, model))
    problems += file_problems(config)
    if guard is not None and config.workers > 1:
        problems += _problem_of(partial(check_workers, config, guard))
    return problems, guard


def file_problems(config: Config) -> list[str]:
    """What is wrong with the files, keys, tokens and folders that a configuration names, its bundles aside."""
    return [problem for check in _checks(config) for problem in _problem_of(check)]


def _checks(config: Config) -> Iterator[Callable[[], object]]:
    addresses = {"metrics": config.metrics, "admin": config.admin, "ext_proc": config.ext_proc}
    if config.ext_proc_tls is not None:
        yield Certificates(config.ext_proc_tls, None, ("ext_proc_tls", "")).read
    for listener in config.every_listener:
        yield Certificates(listener.tls, listener.upstream_tls).read
        yield partial(_must_have_folder, "listen", listener.listen)
    for setting, address in addresses.items():
        if address is not None:
            yield partial(_must_have_folder, setting, address)
    for name, model in config.models.items():
        if model.fallback is not None and model.fallback.tls is not None:
            yield Certificates(None, model.fallback.tls, ("", f"models.{name}.fallback.tls")).read
    if config.admin is not None:
        yield AdminServer(config).check
    if config.events is not None:
        if config.events.spool is not None:
            yield partial(_must_take_files, "events.spool", config.events.spool)
        for target in config.events.to:
            if isinstance(target, FileTarget):
                yield partial(_must_take_files, "events.to.file", target.file.parent)
            yield partial(check_target, target)
    if config.record is not None:
        yield require_pyarrow
        yield partial(_must_take_files, "record.to", config.record.to)
    yield partial(opinion_models, config)
    for name, model in config.models.items():
        if model.second_opinion is not None and model.second_opinion.scores is not None:
            folder = model.second_opinion.scores.parent
            yield partial(_must_take_files, f"models.{name}.second_opinion.scores", folder)
    if config.opentelemetry is not None:
        yield partial(check_exporters, config.opentelemetry)


def _problem_of(check: Callable[[], object]) -> list[str]:
    """What a check says is wrong, in a list of one; empty where nothing is."""
    try:
        check()
    except MISTAKES as error:
        return [str(error)]
    return []


def _path_problems(config: Config, reported: str) -> list[str]:
    """What is wrong with the paths of signals where bundles cannot be read, so that those were not looked at."""
    problems = []
    for name, model in config.models.items():
        bare = model.model_copy(
            update={"bundle": None, "shadow": None, "second_opinion": None, "adapt": None, "discoveries": None}
        )
        alone = config.model_copy(update={"models": {name: bare}, "state": None})
        problems += _problem_of(partial(guarded_models, alone, State()))
    return [problem for problem in problems if problem != reported]


def _must_have_folder(setting: str, address: Address) -> None:
    """The folder of a Unix socket is there. Raises ConfigError."""
    folder = Path(address.path).parent
    if address.path and not folder.is_dir():
        raise ConfigError(f"{setting}: there is no folder {folder} for the socket")


def _must_take_files(setting: str, folder: Path) -> None:
    """The folder, or the nearest that is there and in which it would be made, can be written."""
    nearest = next(ancestor for ancestor in (folder, *folder.absolute().parents) if ancestor.exists())
    if not nearest.is_dir():
        raise ConfigError(f"{setting}: {nearest} is no folder")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise ConfigError(f"{setting}: {nearest} cannot be written to")
