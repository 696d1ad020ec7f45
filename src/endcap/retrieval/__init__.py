"""Candidate vectors in, the best products for a query vector out."""
