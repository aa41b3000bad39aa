"""Penwright's own endpoints."""
