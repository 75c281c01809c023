"""How records become results: one module per kind, whose `answers` yields names and fields."""
