"""Whether every promise is kept on real data, by the exact law it obeys; peers, delays and costs beside it."""
