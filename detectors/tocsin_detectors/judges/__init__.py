"""Detectors of what a model judge says, and the check that it cannot be fooled by one token."""
