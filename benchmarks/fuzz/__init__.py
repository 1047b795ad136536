"""Broken cases and bombs for everything that reads bytes from elsewhere."""
