"""Checks of what stands around models, before it guards anything."""
