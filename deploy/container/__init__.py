"""Container image: entry point, gateway and configuration."""
