"""API keys: their file, its command line, and how much each may use."""
