"""Scoring captions. Imports nothing of the handler, so that it can score anybody's captioner."""
