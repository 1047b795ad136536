"""Consumers of verdicts. A new sink is a file here with a class that inherits from `judgement.sink.Sink`."""
