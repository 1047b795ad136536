"""Guarded HTTP exchanges without sockets: what every position that carries HTTP shares."""
