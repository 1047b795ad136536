"""Recordings of safe traffic: written by a relay, read and divided for fitting and calibrating."""
