"""Soak test: hours of mixed load on a private server, checked for lost or wrong responses and for resource growth."""
