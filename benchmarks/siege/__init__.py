"""Attacks on a relay's memory and time, each beside an ordinary caller."""
