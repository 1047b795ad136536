"""HTTP/2 as bytes, without sockets: frames, header compression, flow control (RFC 9113, RFC 7541)."""
