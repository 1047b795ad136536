"""HTTP protocols: routes whose messages are JSON, read by paths. Bytes in, signals out; no framework is needed."""
