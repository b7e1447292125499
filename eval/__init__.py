"""Evaluation and load tests of a running endpoint. Knows the JSON of the endpoint, not its implementation."""
