"""Tables and logs in, what changed and how fresh it is out: profiles, drift, freshness."""
