"""Every HTTP endpoint, in every position, mode and coding: what becomes of a response that must be judged."""
