"""What is remembered between calls: the progress of sessions, in memory, or in a Redis that replicas share."""
