"""Answers to queries: which entities match, and what is said of them."""
