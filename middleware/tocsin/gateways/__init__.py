"""Gateways made of Envoy, and others that ask external processors: what to apply to them, and what is wrong with it."""
