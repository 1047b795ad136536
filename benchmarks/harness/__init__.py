"""What tests and benchmarks share: real and raw peers, servers to break, bundles and messages of made-up models."""
