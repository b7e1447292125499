"""Demonstration of failover, canary release and rolling upgrade: two servers behind HAProxy under load."""
