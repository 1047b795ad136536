"""Tocsin as an external processor of Envoy (ext_proc): it judges what Envoy sends it of each response."""
