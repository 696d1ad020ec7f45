"""A job in, its end out: one file for each place where jobs run."""
