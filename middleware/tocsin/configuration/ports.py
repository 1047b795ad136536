"""Checks that the addresses of a configuration fit each other: no port twice, and no loop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tocsin.configuration.fields import Address
from tocsin.configuration.listener import Listener

LOOPBACK = ("127.0.0.1", "::1", "localhost")


def check_ports(listeners: Sequence[Listener], others: Mapping[str, Address | None]) -> None:
    """Raises ValueError where two of the relay's own ports are the same, or an upstream leads back to the relay.
    `others` are further ports by the setting's name. Host names are not resolved.
    """
    taken_addresses = [(_name("listen", number), entry.listen) for number, entry in enumerate(listeners)]
    taken_addresses += [(name, address) for name, address in others.items() if address is not None]
    for at, (name, address) in enumerate(taken_addresses):
        for other_name, other in taken_addresses[:at]:
            if _covers(address, other) or _covers(other, address):
                raise ValueError(f"{name}: {address} is the address of {other_name} already: choose another")
    for number, listener in enumerate(listeners):
        way = [number]
        while (after := _listener_at(listeners[way[-1]].upstream, listeners)) is not None:
            if after == number:
                by = (
                    ""
                    if len(way) == 1
                    else f" by way of {', '.join(str(listeners[entry].listen) for entry in way[1:])}"
                )
                raise ValueError(
                    f"{_name('upstream', number)}: {listener.upstream} leads back to {listener.listen}{by}, where the "
                    f"relay itself listens: name the model server's address"
                )
            if after in way:
                break
            way.append(after)


def _listener_at(upstream: Address, listeners: Sequence[Listener]) -> int | None:
    """The listener that an upstream points to."""
    return next((number for number, listener in enumerate(listeners) if _leads_to(upstream, listener.listen)), None)


def _leads_to(upstream: Address, listen: Address) -> bool:
    """Whether a connection to `upstream` reaches `listen`, as far as can be told without resolving names."""
    return _covers(listen, upstream) and (upstream == listen or upstream.host in (*LOOPBACK, "0.0.0.0", "::"))


def _covers(listen: Address, other: Address) -> bool:
    """Whether listening on one address takes the other one too, if that is on this machine. A port that the system
    chooses is never taken.
    """
    if listen.path or other.path:
        return listen.path == other.path
    if listen.port != other.port or not listen.port:
        return False
    if listen.host == "::" or "localhost" in (listen.host, other.host):
        return listen.host in ("::", "0.0.0.0", other.host) or {listen.host, other.host} <= set(LOOPBACK)
    return listen.host == other.host or (listen.host == "0.0.0.0" and ":" not in other.host)


def _name(setting: str, number: int) -> str:
    return setting if not number else f"listeners.{number - 1}.{setting}"
