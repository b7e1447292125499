"""Offline captioning of large image collections with Ray Data: `make batch`."""
