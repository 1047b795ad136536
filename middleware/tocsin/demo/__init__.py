"""The demo: real parts on one machine, from nothing to a guarded model server."""
