"""Alarms as events. A new destination is a file here with a `send`, a target in `tocsin.configuration.events`, and a
line in `tocsin.events.delivery`.
"""
