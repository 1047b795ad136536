"""Thresholds and p-values: what may alarm, how often, and under which law."""
