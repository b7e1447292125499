"""Compare ways to serve a bundle side by side, and find the best settings for a machine."""
