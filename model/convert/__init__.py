"""Networks in other programs' files, in and out.

    hub             OpenAI's four GPT-2 models, from the Hugging Face hub
    hf_read         a Hugging Face GPT-2 directory: language model or classifier
    hf_write        the same, written
    hf_head         a head with bias and temperature as one without
    bpe_files       our tokenizer in the form of `tokenizer.json`, and its merges
    peft_files      LoRA adapters of the package `peft`
    gguf_names      what GGUF calls our tensors, and which tokenizers it can carry
    gguf_write      llama.cpp's format, written
    gguf_read       the same, read

What would compute something else than GPT-2 is refused by its name, and so is a tensor that nobody
uses: an import or an export is exact (or rounded as asked) or an error.
"""

from model.convert.hf_read import Imported, read_hugging_face
from model.convert.hub import HUB_NAMES, download

__all__ = ["HUB_NAMES", "Imported", "download", "read_hugging_face"]
