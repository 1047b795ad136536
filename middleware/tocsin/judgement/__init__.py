"""Judgement of calls: signals in, verdicts out. It knows no sockets, and whoever drives it knows no scores."""
