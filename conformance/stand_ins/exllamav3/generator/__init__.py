"""Only a place for `sampler`."""
