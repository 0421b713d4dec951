"""Base models: load one, tokenise for it, and put methods and a head on it."""
