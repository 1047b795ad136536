"""The forwarder that delays bytes: what it copies does not end before both sides do."""

from __future__ import annotations

import gc
import socket
import struct
import time

from tests.interop.forwarder import Forwarder


def test_a_server_whose_caller_is_gone_is_read_to_its_end() -> None:
    # asyncio refers to the task of such a connection weakly: collected in its midst, it fails whatever test is running
    with socket.create_server(("127.0.0.1", 0)) as server:
        forwarder = Forwarder(server.getsockname()[1], delay=0.01)
        forwarder.open()
        caller = socket.create_connection(("127.0.0.1", forwarder.port))
        upstream, _ = server.accept()
        caller.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        caller.close()
        time.sleep(0.1)
        gc.collect()
        (task,) = forwarder._forwarding
        assert not task.done()
        upstream.close()
        forwarder.close()
        assert task.done()
