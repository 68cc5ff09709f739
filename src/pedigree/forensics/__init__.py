"""Lineage from weights alone: one comparison, and what is built from many.

    pair, scanning    what an audit asks of two models; one model against a library
    trees             family trees
    merges            merges taken apart
    compare           two checkpoints: the entry point
    fingerprints      a few megabytes that stand for a model
    comparison        from measurements to a verdict and its record
    descent, frames   descent or only one start; common frames of the stream
    units             units of two layers beside each other
    sides             what is read of one model
    exact             tests with a stated null, and their bounds

Each knows only those below it (contract `comparison` in `pyproject.toml`); `arrivals`, `revision` and `spread` serve
all of them.
"""
