"""Family trees of many models."""
