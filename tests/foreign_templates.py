"""Chat templates as people have them, each in the style of a family, and a tokenizer for them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tokenizers
import transformers

from model.prompts import EndOfDocument, JinjaTemplate, Message, Part, Special
from model.tokenizer import GPT2_PATTERN, Tokenizer

SPECIAL = (
    *("<unk>", "<s>", "</s>", "<|endoftext|>", "<|im_start|>", "<|im_end|>", "[INST]", "[/INST]"),
    *("<|system|>", "<|user|>", "<|assistant|>", "<|end|>", "<bos>", "<eos>"),
    *("<start_of_turn>", "<end_of_turn>", "<|TURN|>", "<|END_OF_TURN|>", "<|BOT|>", "<|HUMAN|>"),
)
BOS, EOS = "<s>", "</s>"

MISTRAL = """\
{%- set ns = namespace(system='') -%}
{%- if messages[0]['role'] == 'system' -%}
    {%- set ns.system = messages[0]['content'] + '\\n\\n' -%}
    {%- set turns = messages[1:] -%}
{%- else -%}
    {%- set turns = messages -%}
{%- endif -%}
{{- bos_token -}}
{%- for turn in turns -%}
    {%- if (turn['role'] == 'user') != (loop.index0 % 2 == 0) -%}
        {{- raise_exception('user and assistant must take turns') -}}
    {%- elif turn['role'] == 'user' -%}
        {{- '[INST] ' + (ns.system if loop.first else '') + turn['content'] + ' [/INST]' -}}
    {%- else -%}
        {{- ' ' + turn['content'] + eos_token -}}
    {%- endif -%}
{%- endfor -%}
"""
GEMMA = """\
{{ '<bos>' }}{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}
{% for message in messages %}
{% set role = 'model' if message.role == 'assistant' else message.role %}
{{ '<start_of_turn>' ~ role ~ '\\n' ~ message.content | trim ~ '<end_of_turn>\\n' }}
{%- endfor %}
{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}
"""
PHI3 = """\
{% for message in messages %}
{{- '<|' + message['role'] + '|>\\n' + message['content'] + '<|end|>\\n' -}}
{% endfor %}
{%- if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% else %}{{ eos_token }}{% endif %}
"""
"""Ends a conversation that asks for nothing with one token more."""
ZEPHYR = """\
{% for message in messages %}
{% if message['role'] == 'user' %}
{{ '<|user|>\\n' + message['content'] + eos_token }}
{% elif message['role'] == 'system' %}
{{ '<|system|>\\n' + message['content'] + eos_token }}
{% else %}
{{ '<|assistant|>\\n' + message['content'] + eos_token }}
{% endif %}
{% if loop.last and add_generation_prompt %}
{{ '<|assistant|>' }}
{% endif %}
{% endfor %}
"""
"""With line ends after most tags' output, as they stand in the text."""
COMMAND = """\
{{- bos_token -}}
{%- for message in messages -%}
{%- set who = {'system': '', 'user': '<|HUMAN|>', 'assistant': '<|BOT|>'}[message.role] -%}
{{- '<|TURN|>' + who + message.content.strip() + '<|END_OF_TURN|>' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|TURN|><|BOT|>' -}}{%- endif -%}
"""
LLAMA2 = """\
{%- if messages[0]['role'] == 'system' -%}
{%- set system = '<<SYS>>\\n' + messages[0]['content'] + '\\n<</SYS>>\\n\\n' -%}
{%- set messages = messages[1:] -%}
{%- else -%}
{%- set system = '' -%}
{%- endif -%}
{%- for message in messages -%}
{%- if message['role'] == 'user' -%}
{%- set content = (system if loop.index0 == 0 else '') + message['content'] -%}
{{- bos_token + 'QUESTION: ' + content.strip() + ' ANSWER:' -}}
{%- elif message['role'] == 'assistant' -%}
{{- ' ' + message['content'].strip() + ' ' + eos_token -}}
{%- else -%}
{{- raise_exception('Only user and assistant roles: not ' ~ message['role']) -}}
{%- endif -%}
{%- endfor -%}
"""
"""Its marks of turns are ordinary text."""
TOOLS = """\
{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- if messages[0].role == 'system' %}{{- messages[0].content + '\\n\\n' }}{% endif %}
    {{- 'You may call:' }}
    {%- for tool in tools %}
        {{- '\\n' }}{{- tool | tojson }}
    {%- endfor %}
    {{- '<|im_end|>\\n' }}
{%- elif messages[0].role == 'system' %}
    {{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
{%- else %}
    {{- '<|im_start|>system\\nToday is ' + strftime_now('%d %B %Y') + '.<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if loop.first and message.role == 'system' %}{%- continue %}{%- endif %}
    {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}
"""
GENERATION = """\
{%- for message in messages -%}
{%- if message.role == 'assistant' -%}
{{- '<|assistant|>\\n' -}}
{% generation %}{{- message.content + eos_token -}}{% endgeneration %}{{- '\\n' -}}
{%- else -%}
{{- '<|' + message.role + '|>\\n' + message.content + '\\n' -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|assistant|>\\n' -}}{%- endif -%}
"""
THOUGHTS = """\
{%- for message in messages -%}
{%- set content = message.content -%}
{%- if message.role == 'assistant' and not loop.last and '</think>' in content -%}
{%- set content = content.split('</think>')[-1].lstrip('\\n') -%}
{%- endif -%}
{{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}
"""
"""Leaves out what was thought before earlier answers."""
CALLS = """\
{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- if messages[0].role == 'system' %}{{- messages[0].content + '\\n\\n' }}{% endif %}
    {{- 'Tools:' }}
    {%- for tool in tools %}{{- '\\n' + tool | tojson }}{%- endfor %}
    {{- '<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if message.role == 'tool' %}
        {{- '<|im_start|>user\\n<result>' + message.content + '</result><|im_end|>\\n' }}
    {%- elif not (loop.first and tools and message.role == 'system') %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content }}
        {%- for call in message.tool_calls or [] %}
            {{- '<call>\\n{"name": "' + call.function.name + '", "parameters": ' }}
            {{- call.function.arguments | tojson }}
            {{- '}\\n</call>' }}
        {%- endfor %}
        {{- '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}
"""
"""Writes tools, calls and results by itself."""
STYLES = {
    "mistral": MISTRAL,
    "gemma": GEMMA,
    "phi3": PHI3,
    "zephyr": ZEPHYR,
    "command": COMMAND,
    "llama2": LLAMA2,
    "tools": TOOLS,
    "generation": GENERATION,
    "thoughts": THOUGHTS,
    "calls": CALLS,
}

_TEXTS = (
    "Name a bird. A wren. Another? the king said to the queen that they ought to go",
    "system user assistant model You may call: Today is 26 July 2024. QUESTION: ANSWER: <<SYS>>",
    '{"type": "function", "function": {"name": "find", "description": ""}} \n\n\n [INST] [/INST]',
)


def new_tokenizer(directory: Path, template: str) -> Any:
    """A small byte-level tokenizer of `transformers`, saved in `directory`."""
    whole = tokenizers.Tokenizer(tokenizers.models.BPE())
    whole.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    whole.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=420,
        special_tokens=list(SPECIAL),
        initial_alphabet=sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    whole.train_from_iterator(_TEXTS * 4, trainer)
    made = transformers.PreTrainedTokenizerFast(
        tokenizer_object=whole, bos_token=BOS, eos_token=EOS, chat_template=template
    )
    made.save_pretrained(directory)
    return made


# Here, without `transformers`

IDS = {text: 300 + index for index, text in enumerate(SPECIAL)}
TOKENIZER = Tokenizer(
    {**{bytes([byte]): byte for byte in range(256)}, b"<|": 256, b"|>": 257, b"</": 258},
    GPT2_PATTERN,
    IDS,
)
TEMPLATES = {style: JinjaTemplate.of(text, SPECIAL, BOS, EOS) for style, text in STYLES.items()}
ASKED = (Message("user", "Name a bird."), Message("assistant", "A wren."), Message("user", "More"))
ANSWER = Message("assistant", "A rook.")


def of(text: str, special: Sequence[str] = SPECIAL) -> JinjaTemplate:
    return JinjaTemplate.of(text, special, BOS, EOS)


def written(parts: Sequence[Part]) -> str:
    return "".join("" if isinstance(part, EndOfDocument) else part.text for part in parts)


def specials(parts: Sequence[Part]) -> list[str]:
    return [part.text for part in parts if isinstance(part, Special)]


def said(parts: Sequence[Part]) -> str:
    return written([part for part in parts if part.said and part.learnt])
