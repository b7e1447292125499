"""Packing, serving, measuring and running the endpoint. Start with `make serve` and `make stop`."""
