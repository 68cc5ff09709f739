"""One comparison from its measurements to its record: findings, tests, changes, direction, verdict."""
