"""Names and shapes that every other package shares: columns, configuration, manifests, errors."""
