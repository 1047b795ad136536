"""A first configuration, from a protocol's name or from a model server's metadata."""
