"""Pairs of known descent from which the direction of a pair is calibrated: parents and children, siblings, merges.

`python -m pedigree.benchmark.direction make DIR` trains the models, `... write DIR` compares the pairs, fits the few
numbers of `pedigree.forensics.data/direction.json` and says what they do on families that took no part in the fit.
"""
