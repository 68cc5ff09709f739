"""Merges taken apart: which parents, at which weights, by which method."""
