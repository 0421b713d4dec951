"""Contracts, landed batches, and what is done to rows before anything is learned from them."""
