"""Tests of contracts, batches and rows."""
