"""Examples of the API's pages. They run as they stand, `/classify` where there is a
classifier of spam."""

from typing import Any

Example = dict[str, Any]

GENERATE_EXAMPLES: dict[str, Example] = {
    "continue": {
        "summary": "Continue a text",
        "value": {"prompt": "Once upon a time", "max_new_tokens": 40, "seed": 1},
    },
    "choices": {
        "summary": "Two choices for each of two prompts",
        "value": {
            "prompt": ["The old man", "The sea"],
            "n": 2,
            "max_new_tokens": 20,
            "temperature": 0.7,
            "top_p": 0.95,
            "stop": ["\n"],
            "seed": 7,
        },
    },
    "json": {
        "summary": "JSON of a schema",
        "value": {
            "prompt": "A boy in the story, as JSON: ",
            "max_new_tokens": 80,
            "seed": 1,
            "response_format": {
                "type": "json_schema",
                "json_schema": {
                    "name": "person",
                    "schema": {
                        "type": "object",
                        "properties": {
                            "name": {"type": "string", "maxLength": 20},
                            "age": {"type": "integer", "minimum": 0, "maximum": 120},
                        },
                        "required": ["name", "age"],
                        "additionalProperties": False,
                    },
                },
            },
        },
    },
    "stream": {
        "summary": "Stream",
        "value": {"prompt": "In the morning", "max_new_tokens": 40, "stream": True},
    },
}
INSTRUCT_EXAMPLES: dict[str, Example] = {
    "instruction": {
        "summary": "An instruction with an input",
        "value": {
            "instruction": "Rewrite the sentence in the past tense.",
            "input": "She walks to school.",
        },
    },
    "choice": {
        "summary": "One of several answers",
        "value": {
            "instruction": "Is the sentence about the past, the present or the future?",
            "input": "She walked to school.",
            "response_format": {"type": "choice", "choices": ["past", "present", "future"]},
        },
    },
    "stream": {
        "summary": "Stream",
        "value": {"instruction": "Name a synonym of 'happy'.", "stream": True},
    },
}
CLASSIFY_EXAMPLES: dict[str, Example] = {
    "explain": {
        "summary": "Explain the label, or be unsure",
        "value": {
            "text": "Call now to claim your prize",
            "explain": True,
            "unsure_band": [0.2, 0.8],
        },
    },
    "text": {
        "summary": "One text",
        "value": {"text": "You have WON a free prize! Text WIN to 80086 to claim it now."},
    },
    "texts": {
        "summary": "Several texts",
        "value": {
            "text": ["Are we still meeting for lunch?", "FREE entry! Call 09061701461 now!"],
            "truncate": True,
        },
    },
}
TOKENIZE_EXAMPLES: dict[str, Example] = {
    "text": {"summary": "A text", "value": {"text": "Hello, world!"}}
}
DETOKENIZE_EXAMPLES: dict[str, Example] = {
    "tokens": {"summary": "Some tokens", "value": {"tokens": [72, 101, 108, 108, 111]}}
}
