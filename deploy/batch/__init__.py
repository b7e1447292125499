"""Captions of millions of pictures, on Ray Data: `make bulk`."""
