"""Judgement of calls: signals in, verdicts out. It knows nothing of sockets, and whoever drives it nothing of scores."""
