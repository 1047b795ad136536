"""Adds the sidecar to existing manifests, without the Helm chart."""
