"""Who may call, and how often: API keys, web pages, headers, limits."""
