"""Alarms as events. A new destination is a file here with a `send`, a target in `tocsin.events_config`, and a line in
`tocsin.events.delivery`.
"""
