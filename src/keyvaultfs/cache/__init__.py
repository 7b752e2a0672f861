"""Secrets in memory: how fresh they are and who fetches them."""
