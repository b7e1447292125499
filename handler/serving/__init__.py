"""The endpoint: request parsing, batching, responses, metrics and the demo page."""
