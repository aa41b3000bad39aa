"""Networks in other programs' files, in and out.

    families        which choices each is made of, and what they call the parts of a network
    tensors         a network filled with their tensors, and taken apart into them
    hub             OpenAI's four GPT-2 models, from the Hugging Face hub
    hf_config       Hugging Face's config.json as an architecture, and back
    hf_read         a Hugging Face directory, read
    hf_write        the same, written
    hf_head         a head with bias and temperature as one without
    bpe_files       our tokenizer in the form of `tokenizer.json`, and its merges
    peft_modules    the layers that the package `peft` names
    peft_read       its LoRA adapters, read
    peft_write      the same, written
    gguf_file       llama.cpp's format: its header and its tensors
    gguf_config     its metadata as an architecture, and back
    gguf_rows       the rows that it has in another order
    gguf_tokenizer  its tokenizer, read and written
    gguf_read       a network in it, read
    gguf_write      the same, written

What would compute something else than is known here is refused by its name, and so is a tensor that
nobody uses: an import or an export is exact (or rounded as asked) or an error.
"""

from model.convert.hf_read import read_hugging_face
from model.convert.hub import HUB_NAMES, download
from model.convert.tensors import Imported

__all__ = ["HUB_NAMES", "Imported", "download", "read_hugging_face"]
