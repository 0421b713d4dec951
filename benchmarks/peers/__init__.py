"""Peers: what people use today, doing the same work as ours on the same rows."""
