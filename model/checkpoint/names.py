"""Names of a network's parts as they were in format 1, when GPT-2 was the only family.

Checkpoints of that format and the saved states of runs are read through this table.
"""

import re

_PARTS = {
    "wte": "embedding",
    "wpe": "positions",
    "ln_f": "norm",
    "lm_head": "head",
    "h": "blocks",
    "ln_1": "attention_norm",
    "ln_2": "mlp_norm",
    "attn": "attention",
    "c_attn": "qkv",
    "c_fc": "up",
}
_SEPARATORS = re.compile(r"([./])")


def current_name(name: str) -> str:
    """Today's name of what format 1 called `name`; other names stay.

    Args:
        name: of a tensor or a layer, its parts divided by dots or, in adapters, by slashes; it may
            have something in front, as in `model.h.0.ln_1.weight`.
    """
    pieces = _SEPARATORS.split(name)
    before = ""
    for place in range(0, len(pieces), 2):
        part = pieces[place]
        if part == "c_proj":
            pieces[place] = "out" if before == "attn" else "down"
        elif part != "h" or "".join(pieces[place + 2 : place + 3]).isdigit():
            pieces[place] = _PARTS.get(part, part)
        before = part
    return "".join(pieces)
