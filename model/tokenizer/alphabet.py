"""The characters by which GPT-2's files, and all that follow it, write bytes."""

from functools import cache


@cache
def byte_of_character() -> dict[str, int]:
    """The byte that each of the 256 characters stands for: printable Latin-1 stands for itself, the
    other bytes follow from U+0100 on."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    table = {chr(byte): byte for byte in printable}
    table.update({chr(256 + index): byte for index, byte in enumerate(others)})
    return table


@cache
def character_of_byte() -> dict[int, str]:
    """The same the other way round."""
    return {byte: character for character, byte in byte_of_character().items()}
