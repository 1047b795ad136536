"""Alerts on a real Prometheus and Alertmanager: what reaches somebody, and how soon."""
