"""A peer and ours on the same work in the same run: figures and ratios out."""
