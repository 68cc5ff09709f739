"""The bank: models that are known to be independent, trained for the purpose, and what `compare` says of their pairs.

kinds.py      which models: mechanisms, sizes, seeds, and whether they calibrate or test
training.py   makes them, resumable and cached by content
pairs.py      which pairs are compared, and what is written down of each
rests.py      looks at what a parent leaves of a relative, beside models independent of both
numbers.py    from rows to the numbers that ship with the package
"""
