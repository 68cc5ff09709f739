"""The families of the benchmark: independent roots, everything derived from them, and what is true of each pair.

`members` says which models there are, `truth` what is known of them, `split` keeps calibration and test apart,
`questions` which pairs are asked and why, `foundry` makes the files.
"""
