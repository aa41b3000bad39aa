"""Text to token ids and back, with the byte-level BPE vocabularies that people have.

GPT-2, Llama 3, Qwen2 and Qwen3, SmolLM2 and our own differ in how they cut text into pieces, in
their special tokens, and in what they ask of an encoder. `Tokenizer` hides that. `hugging_face`
reads the directories of `transformers`; GGUF's fields are read by `model.convert.gguf_tokenizer`.

Text of users is always encoded as ordinary text: whoever types `<|endoftext|>` gets the tokens of
those characters, and neither an exception nor the end token.
"""

from model.tokenizer.alphabet import byte_of_character
from model.tokenizer.patterns import GPT2_PATTERN, PATTERN
from model.tokenizer.settled import Settled
from model.tokenizer.special import END_OF_TEXT, SpecialTokens
from model.tokenizer.stream import StreamDecoder, TextStream
from model.tokenizer.tokenizer import Tokenizer

__all__ = [
    "END_OF_TEXT",
    "GPT2_PATTERN",
    "PATTERN",
    "Settled",
    "SpecialTokens",
    "StreamDecoder",
    "TextStream",
    "Tokenizer",
    "byte_of_character",
]
