"""Tocsin as an external processor of Envoy (ext_proc): it judges the responses that Envoy sends to it."""
