"""Frames of the residual stream: found from tokens or from weights alone, and whether they carry over."""
