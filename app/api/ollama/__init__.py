"""The API below /api, as Ollama's clients speak it."""
