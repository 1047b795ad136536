"""gRPC's framing over HTTP/2, as bytes: messages with their length before them, content types."""
