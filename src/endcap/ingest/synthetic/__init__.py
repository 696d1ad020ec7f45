"""A size and a seed in, a made-up shop's events, catalog and logs out."""

from endcap.ingest.synthetic.plan import FORMATS, Format, Plan, parse_count
from endcap.ingest.synthetic.shop import generate

__all__ = ["FORMATS", "Format", "Plan", "generate", "parse_count"]
