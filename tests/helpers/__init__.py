"""Shared code of the tests that is not a fixture, one module per subject."""
