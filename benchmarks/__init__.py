"""Comparisons with other engines on the same weights and the same machine; see README.md."""
