"""Measures servers of one bundle with several settings, side by side; and finds the best settings for a machine."""
