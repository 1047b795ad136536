"""The page on the metrics port: what a monitor has promised and what it sees, for people. `/live` is its data."""
