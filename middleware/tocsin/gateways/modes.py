"""How each body has to come, whatever the gateway calls it."""

from __future__ import annotations

from typing import Any, NamedTuple

from tocsin.configuration.config import Config
from tocsin.ext_proc.attach import ext_proc_filter, reply_seconds
from tocsin.gateways.needs import Needs
from tocsin.judgement.guard import Guard

Document = dict[str, Any]


class Written(NamedTuple):
    """What is to be applied, and what is to be known of it."""

    documents: list[Document]
    notes: list[str]


class Wanted(NamedTuple):
    """Modes as Envoy's own filter would have them. `request_body` and `response_body`: NONE, STREAMED, BUFFERED or
    FULL_DUPLEX_STREAMED.
    """

    needs: Needs
    request_headers: bool
    request_body: str
    response_body: str
    observes: bool
    fails_open: bool
    seconds: float


def wanted(config: Config, guard: Guard) -> Wanted:
    """What a configuration asks of a gateway. Raises ValueError where it has no port for one."""
    if config.ext_proc is None:
        raise ValueError("ext_proc: is not set: say where gateways connect, such as 0.0.0.0:9002")
    settings = ext_proc_filter(config, guard)["typed_config"]
    modes = settings["processing_mode"]
    return Wanted(
        needs=Needs.of(config, guard),
        request_headers=modes["request_header_mode"] == "SEND",
        request_body=modes.get("request_body_mode", "NONE"),
        response_body=modes["response_body_mode"],
        observes=settings.get("observability_mode", False),
        fails_open=settings["failure_mode_allow"],
        seconds=reply_seconds(config),
    )


def camel(mode: str) -> str:
    """FULL_DUPLEX_STREAMED as FullDuplexStreamed."""
    return "".join(word.capitalize() for word in mode.split("_"))
