"""Speed and memory, each beside its peer."""
