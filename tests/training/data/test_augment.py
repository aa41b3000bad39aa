"""Altered copies: the same for the same key, other ones in each epoch."""

import pytest

from model.errors import UsageError
from model.tokenizer import Tokenizer
from training.data.augment import CHANGES, DEFAULT_RATE, Augmentation, Copies, augmented
from training.data.order import ShuffledOrder

TEXT = "Congratulations! Claim your £1,500 prize at www.prizes.com/win, call 09061234567 today"


@pytest.mark.parametrize("name", CHANGES)
def test_each_change_alters_what_it_names(name: str) -> None:
    one = Augmentation.parse([f"{name}=1"])
    copies = {augmented(TEXT, one, (0, epoch, 0)) for epoch in range(20)}
    assert len(copies - {TEXT}) > 3
    for copy in copies:
        kept = {
            # What a change leaves alone, as a part of the text that it has no business with.
            "links": ("Congratulations! Claim your £1,500 prize at ", "call 09061234567 today"),
            "digits": ("Congratulations! Claim your ", " prize at www.prizes.com/win, call "),
            "spelling": ("£1,500", "09061234567"),
            "obfuscation": ("£1,500", "09061234567"),
            "casing": ("£1,500", "09061234567"),
            "spacing": ("09061234567", "today"),
        }[name]
        assert all(part in copy for part in kept), copy
    if name == "casing":
        assert {copy.lower() for copy in copies} == {TEXT.lower()}
    if name == "links":
        assert not any("prizes.com" in copy for copy in copies)


def test_a_copy_depends_on_its_key_alone() -> None:
    every = Augmentation.parse(["all=0.5"])
    keys = [(seed, epoch, i) for seed in range(3) for epoch in range(3) for i in range(3)]
    copies = [augmented(TEXT, every, key) for key in keys]
    assert copies == [augmented(TEXT, every, key) for key in keys]
    assert len(set(copies)) == len(keys)
    # Written down, since another process or version must draw it again: resumed runs rely on it.
    assert (
        augmented("call 12345 now", Augmentation.parse(["digits=1"]), (1, 2, 3))
        == "call 798532 now"
    )


def test_no_rate_no_change_and_never_nothing_left() -> None:
    assert augmented(TEXT, Augmentation.parse([]), (0, 0, 0)) == TEXT
    assert augmented(TEXT, Augmentation.parse(["all=0"]), (0, 0, 0)) == TEXT
    spacing = Augmentation.parse(["spacing=1"])
    assert all(augmented("?!", spacing, (0, epoch, 0)).strip() for epoch in range(50))
    for text in ("", "ok", "1", "éé ßß", "日本語のテキスト", "\n"):
        for epoch in range(20):
            augmented(text, Augmentation.parse(["all=1"]), (0, epoch, 0))


def test_the_flag_names_changes_and_rates() -> None:
    assert Augmentation.parse(["casing", "links=0.5"]).rates == (
        ("links", 0.5),
        ("casing", DEFAULT_RATE),
    )
    assert dict(Augmentation.parse(["all=0.1", "digits=0"]).rates) == dict.fromkeys(
        set(CHANGES) - {"digits"}, 0.1
    )
    for flag, message in (
        ("shouting", "--augment has 'shouting'; it must be among links"),
        ("casing=2", "its rate must be between 0 and 1"),
        ("casing=often", "its rate must be between 0 and 1"),
        ("casing=nan", "its rate must be between 0 and 1"),
    ):
        with pytest.raises(UsageError, match=message):
            Augmentation.parse([flag])


def test_every_epoch_sees_every_text_in_another_copy(tokenizer: Tokenizer) -> None:
    texts = [f"text number {i}: {TEXT}" for i in range(10)]
    copies = Copies(texts, Augmentation.parse(["all=0.9"]), 5, tokenizer, context=40)
    order = copies.order(ShuffledOrder(10, seed=1))
    epochs = [[order[position] for position in range(e * 10, e * 10 + 10)] for e in range(3)]
    for epoch, indices in enumerate(epochs):
        assert sorted(indices) == list(range(epoch * 10, epoch * 10 + 10))
    first, second = copies.tokens(3), copies.tokens(13)
    assert first != second
    assert max(len(first), len(second)) <= 40
    expected = augmented(texts[3], Augmentation.parse(["all=0.9"]), (5, 1, 3))
    assert second == tuple(tokenizer.encode(expected)[:40])
