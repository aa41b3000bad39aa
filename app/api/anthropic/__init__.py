"""The API below /v1/messages, as Anthropic's clients speak it."""
