"""HAProxy configuration and control."""
