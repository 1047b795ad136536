"""A first configuration, from a protocol's name or from what a model server says of itself."""
