"""The relay beside other proxies."""
