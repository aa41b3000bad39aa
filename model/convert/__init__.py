"""Networks in other programs' files, in and out.

    families        what they call the parts of a network
    tensors         a network filled with their tensors
    hub             OpenAI's four GPT-2 models, from the Hugging Face hub
    hf_config       Hugging Face's config.json as an architecture
    hf_read         a Hugging Face directory, read
    hf_write        GPT-2, written
    hf_head         a head with bias and temperature as one without
    bpe_files       our tokenizer in the form of `tokenizer.json`, and its merges
    peft_files      LoRA adapters of the package `peft`, on GPT-2
    gguf_file       llama.cpp's format: its header and its tensors
    gguf_config     its metadata as an architecture
    gguf_tokenizer  its tokenizer
    gguf_read       a network in it, read
    gguf_write      GPT-2, written

What would compute something else than is known here is refused by its name, and so is a tensor that
nobody uses: an import or an export is exact (or rounded as asked) or an error.
"""

from model.convert.hf_read import read_hugging_face
from model.convert.hub import HUB_NAMES, download
from model.convert.tensors import Imported

__all__ = ["HUB_NAMES", "Imported", "download", "read_hugging_face"]
