"""Exported files in, a sealed release folder and the registry that names it out."""
