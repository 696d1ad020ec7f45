"""Transformed columns in, trained weights and exported graphs out."""
