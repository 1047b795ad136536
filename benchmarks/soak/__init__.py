"""Mixed traffic through all modes, while things are broken on purpose."""
