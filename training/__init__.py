"""Data, the models' training, and packing the archive. `make train`, `make archive`."""
