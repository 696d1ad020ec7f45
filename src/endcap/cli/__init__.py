"""Thin command-line verbs over the flows."""
