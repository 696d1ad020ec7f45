"""Endcap: a shop's clickstream and catalog in, recommendations in production out."""

__version__ = "0.1.0"
