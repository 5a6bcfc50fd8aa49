"""Shards: tar files of samples, on disk or behind any URL."""
