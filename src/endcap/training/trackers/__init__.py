"""A run under way in, the same in outside systems out: one file per system."""
