"""One side of a comparison: what is read of a model, in which coordinates, and what equals what to the last bit."""
