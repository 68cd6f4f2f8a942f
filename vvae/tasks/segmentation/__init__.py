"""Shot boundaries and foreground masks."""
