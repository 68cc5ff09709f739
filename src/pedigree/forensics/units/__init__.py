"""Units of two layers beside each other: matched, scored on what was held out, and laid along a layer map."""
