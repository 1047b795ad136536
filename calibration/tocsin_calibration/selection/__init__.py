"""Selection: which responses of a batch or a stream to release, and which labels to believe, at a stated error rate."""
