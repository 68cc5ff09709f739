"""Pedigree: make, record and prove the ancestry of language models."""
