"""The sidecar's data plane: HTTP/2 frames in, the same frames out, responses judged on the way."""
