"""What can be configured: one file each for what belongs together, put together in `config`."""
