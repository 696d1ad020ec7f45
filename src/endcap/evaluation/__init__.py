"""Tables of recommendations in, metrics, comparisons, a report and a verdict out."""
