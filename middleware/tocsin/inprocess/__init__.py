"""Judgement inside a Python process: around a client's channel, or inside a server, on all four kinds of call."""
