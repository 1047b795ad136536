"""Guarded exchanges of HTTP, without sockets: what every position that carries HTTP shares."""
