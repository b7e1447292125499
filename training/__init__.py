"""Data, training and export of captioning models. `make train` runs it."""
