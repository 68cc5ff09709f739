"""The join of ledger and evidence: what is said of models, held against their weights.

`pedigree.audit.examination.examine` audits claims, `pedigree.audit.clearance.clear` tests a model against a library.
Only this room and `benchmark` see both what is claimed and what was measured.
"""
