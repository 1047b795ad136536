"""Abstention-aware risk: what an answer is worth, when to abstain, and what is guaranteed about it."""
