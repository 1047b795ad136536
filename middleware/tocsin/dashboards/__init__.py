"""Grafana dashboards: one about the promise, for everybody, and one about the monitor itself, for operators."""
