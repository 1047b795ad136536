"""HTTP protocols: routes whose messages are JSON, read by paths. It needs no web framework."""
