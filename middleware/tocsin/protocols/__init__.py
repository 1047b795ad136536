"""Wire protocols: which methods carry responses to score, and where their signals are."""
