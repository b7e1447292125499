"""Running the endpoint: `make serve`, `make stop`."""
