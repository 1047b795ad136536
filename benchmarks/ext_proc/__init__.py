"""The external processor behind a real Envoy."""
