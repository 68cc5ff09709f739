"""Descent, or only the same random start: what lives on of what was learned."""
