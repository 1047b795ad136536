"""Detectors of token streams."""

from tocsin_detectors.tokens.max_surprisal import MaxSurprisal
from tocsin_detectors.tokens.mean_surprisal import MeanSurprisal
from tocsin_detectors.tokens.perplexity import Perplexity
from tocsin_detectors.tokens.repetition import Repetition
from tocsin_detectors.tokens.token_entropy import TokenEntropy
from tocsin_detectors.tokens.windowed_surprisal import WindowedSurprisal

__all__ = ["MaxSurprisal", "MeanSurprisal", "Perplexity", "Repetition", "TokenEntropy", "WindowedSurprisal"]
