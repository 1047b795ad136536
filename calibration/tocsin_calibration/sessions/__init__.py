"""Sessions: responses that belong together, windows over them, and promises for a whole session."""
