"""Query engines behind Ibis: the same expression runs on whichever engine is asked for."""
