"""Offline: reads data, writes checkpoints. Never imports `app`."""
