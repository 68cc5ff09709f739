"""Families from which start is told from descent: trainings of one random start, and what descends from each.

`python -m pedigree.benchmark.origin make DIR` trains the models, `... write DIR` compares the pairs, fits the numbers
of `pedigree.forensics.data/origin.json` and says what they do on families that took no part in the fit;
`... count DIR` counts the verdicts on the families of the test split.
"""
