"""Examples of the API's pages. They run as they stand against `checkpoints/scratch`."""

from app.api.native.examples import Example

COMPLETION_EXAMPLES: dict[str, Example] = {
    "text": {
        "summary": "Continue a text",
        "value": {"model": "base", "prompt": "Once upon a time", "max_tokens": 40, "seed": 1},
    },
    "stream": {
        "summary": "Stream, with the numbers of tokens at the end",
        "value": {
            "model": "base",
            "prompt": "In the morning",
            "max_tokens": 40,
            "stream": True,
            "stream_options": {"include_usage": True},
        },
    },
}
CHAT_EXAMPLES: dict[str, Example] = {
    "message": {
        "summary": "One message",
        "value": {
            "model": "instruct",
            "messages": [{"role": "user", "content": "What is the opposite of 'hot'?"}],
            "temperature": 0,
        },
    },
    "conversation": {
        "summary": "A conversation",
        "value": {
            "model": "instruct",
            "messages": [
                {"role": "system", "content": "Answer in one sentence."},
                {"role": "user", "content": "What is the opposite of 'hot'?"},
                {"role": "assistant", "content": "The opposite of 'hot' is 'cold'."},
                {"role": "user", "content": "What is the plural of 'child'?"},
            ],
            "temperature": 0,
        },
    },
}
EMBEDDING_EXAMPLES: dict[str, Example] = {
    "texts": {
        "summary": "Two texts",
        "value": {"model": "base", "input": ["The old man", "The sea"]},
    }
}
