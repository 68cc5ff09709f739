"""Fingerprints: a few megabytes of a model, compared without its weights."""
