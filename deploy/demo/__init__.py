"""`make demo`: two servers behind a proxy, and what is done to them."""
