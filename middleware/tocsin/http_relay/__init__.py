"""The relay's HTTP/1.1: requests of guarded routes, judged between a caller's socket and the model server's."""
