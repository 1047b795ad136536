"""Model servers that run for real behind the relay, in an environment of their own."""
