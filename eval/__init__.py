"""What scores and loads a running endpoint. It knows the endpoint's JSON and nothing of what is behind it."""

__version__ = "0.1.0"
