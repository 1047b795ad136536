"""Judgement inside a Python process: around a client's channel, or inside a server. Unary calls are judged."""
