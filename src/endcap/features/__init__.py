"""Checked tables in, point-in-time features, splits and transformed columns out."""
