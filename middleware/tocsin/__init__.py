"""Tocsin: runtime monitoring for deployed models, with a false-alarm rate that is promised and measured."""

from importlib.metadata import version

__version__ = version("tocsin")
