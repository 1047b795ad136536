"""Prometheus rules that follow from the promise. A new alert is a function here and a page in docs/runbooks."""
