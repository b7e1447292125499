"""`make soak`: a server under mixed load for long, and whether it loses, errs or grows."""
