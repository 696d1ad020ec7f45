"""How good recommendations and estimates are, each beside something known."""
