"""Manifests with the sidecar in them, for those who have manifests already and no use for a chart."""
