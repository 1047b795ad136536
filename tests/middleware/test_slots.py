"""Claim: what is made for every call, stream and connection has no dictionary: one that is filled in the midst of a
response costs more than reading the frames of it.
"""

from __future__ import annotations

import pytest

from tocsin.ext_proc.connection import ExtProcConnection
from tocsin.ext_proc.exchange import EnvoyExchange
from tocsin.ext_proc.holding import HeldResponse
from tocsin.ext_proc.http_response import HttpResponse
from tocsin.ext_proc.stream import ProcessorStream
from tocsin.ext_proc.watching import WatchedResponse
from tocsin.judgement.call import Call, StreamedCall
from tocsin.judgement.gate import Gate
from tocsin.judgement.message_run import MessageRun
from tocsin.relay.asking import AskingStream
from tocsin.relay.holding import HeldStream
from tocsin.relay.managed import ManagedConnection, ManagedDownstream, ManagedUpstream
from tocsin.relay.stream import Stream
from tocsin.relay.transparent import TransparentConnection, TransparentDownstream, TransparentUpstream

MADE_OFTEN = [
    Call,
    StreamedCall,
    MessageRun,
    Gate,
    Stream,
    HeldStream,
    AskingStream,
    TransparentConnection,
    TransparentDownstream,
    TransparentUpstream,
    ManagedConnection,
    ManagedDownstream,
    ManagedUpstream,
    EnvoyExchange,
    ProcessorStream,
    ExtProcConnection,
    WatchedResponse,
    HeldResponse,
    HttpResponse,
]


@pytest.mark.parametrize("kind", MADE_OFTEN, ids=lambda kind: kind.__name__)
def test_it_has_slots_alone(kind: type) -> None:
    assert kind.__dictoffset__ == 0
