"""Exercises on single words: their forms, spelling and parts of speech."""

import re
from functools import cache

from examples.exercises.exercise import Draw, Exercise, Skip, known
from examples.exercises.lexicon import Lexicon

_PAST = (
    "What is the past tense of `{w}`? => The past tense of `{w}` is `{a}`.",
    "What is the past tense of the verb `{w}`? => The past tense of the verb `{w}` is `{a}`.",
    "Provide the past tense form of the verb `{w}.` => The past tense of the verb `{w}` is `{a}.`",
    "Provide the past tense of `{w}`. => The past tense of `{w}` is `{a}`.",
    "Give the past tense of `{w}`. => The past tense of `{w}` is `{a}`.",
    "Convert the following verb to its past tense form: `{w}` => The past tense of `{w}` is `{a}`.",
    "~Tell me the past tense of `{w}`. => The past tense of `{w}` is `{a}`.",
    "~What is `{w}` in the past tense? => The past tense of `{w}` is `{a}`.",
)
_PARTICIPLE = (
    "What is the past participle of `{w}`? => The past participle of `{w}` is `{a}`.",
    "Provide the past participle form of `{w}`. => The past participle form of `{w}` is `{a}`.",
    "Convert the following verb to its past participle form: `{w}` "
    "=> The past participle form of `{w}` is `{a}`.",
    "Convert the following verb to its past participle form: `{w}` | {w} "
    "=> The past participle form of `{w}` is `{a}`.",
    "What is the past participle form of the verb `{w}`? "
    "=> The past participle form of `{w}` is `{a}`.",
    "~Tell me the past participle of `{w}`. => The past participle of `{w}` is `{a}`.",
)
_GERUND = (
    "Convert the following verb to its gerund form: `{w}` => The gerund form of `{w}` is `{a}`.",
    "What is the gerund form of `{w}`? => The gerund form of `{w}` is `{a}`.",
    "What is the present participle of `{w}`? => The present participle of `{w}` is `{a}`.",
    "~Tell me the gerund of `{w}`. => The gerund form of `{w}` is `{a}`.",
)
_INFINITIVE = (
    "Convert the following verb to its infinitive form | {w} "
    "=> The infinitive form of `{w}` is `to {a}`.",
    "What is the infinitive form of `{w}`? => The infinitive form of `{w}` is `to {a}`.",
    "What is the base form of the verb `{w}`? => The base form of the verb `{w}` is `{a}`.",
    "~Give the infinitive of `{w}`. => The infinitive form of `{w}` is `to {a}`.",
)


def verb_form(lexicon: Lexicon, draw: Draw) -> Exercise:
    verb = lexicon.verb(draw.choice(lexicon.verbs))
    if draw.chance(0.35):  # the irregular ones are few, and all must be learnt
        verb = lexicon.verb(draw.choice(tuple(lexicon.forms.irregular_verbs)[1:]))
    fact = verb.irregular
    if not fact:
        draw.belongs(verb.base)
    which = draw.rng.random()
    if which < 0.5:
        return draw.fill("past tense", _PAST, known(fact), w=verb.base, a=verb.past)
    if which < 0.75:
        return draw.fill(
            "past participle", _PARTICIPLE, known(fact), w=verb.base, a=verb.participle
        )
    if which < 0.9:
        return draw.fill("gerund", _GERUND, known(fact), w=verb.base, a=verb.gerund)
    if verb.past == verb.base:
        raise Skip
    form = draw.choice((verb.past, verb.gerund))
    return draw.fill("infinitive", _INFINITIVE, known(fact), w=form, a=verb.base)


_PLURAL = (
    "What is the plural form of `{w}`? => The plural form of `{w}` is `{a}`.",
    "What is the plural of `{w}`? => The plural of `{w}` is `{a}`.",
    "Provide the plural form of `{w}`. => The plural form of `{w}` is `{a}`.",
    "Provide the plural form of `{w}.` => The plural form of `{w}` is `{a}.`",
    "Give the plural form of the noun `{w}`. => The plural form of the noun `{w}` is `{a}`.",
    "Convert the following noun to its plural form: `{w}` => The plural form of `{w}` is `{a}`.",
    "Change the noun to its plural form. | {w} => {a}",
    "~Tell me the plural of `{w}`. => The plural of `{w}` is `{a}`.",
    "~How do you write `{w}` in the plural? => The plural form of `{w}` is `{a}`.",
)
_SINGULAR = (
    "What is the singular form of `{w}`? => The singular form of `{w}` is `{a}`.",
    "What is the singular of `{w}`? => The singular of `{w}` is `{a}`.",
    "Provide the singular form of `{w}`. => The singular form of `{w}` is `{a}`.",
    "~Tell me the singular of `{w}`. => The singular of `{w}` is `{a}`.",
)


def plural(lexicon: Lexicon, draw: Draw) -> Exercise:
    irregular = lexicon.forms.irregular_plurals
    noun = draw.choice(tuple(irregular)) if draw.chance(0.3) else draw.choice(lexicon.nouns)
    more = lexicon.forms.plural(noun) or ""
    fact = noun in irregular
    if not fact:
        draw.belongs(noun)
    if draw.chance(0.25) and noun != more:
        return draw.fill("singular", _SINGULAR, known(fact), w=more, a=noun)
    return draw.fill("plural", _PLURAL, known(fact), w=noun, a=more)


_COMPARATIVE = (
    "What is the comparative form of `{w}`? => The comparative form of `{w}` is `{a}`.",
    "Provide the comparative form of `{w}`. => The comparative form of `{w}` is `{a}`.",
    "Provide the comparative form of `{w}.` => The comparative form of `{w}` is `{a}.`",
    "What is the comparative of `{w}`? => The comparative form of `{w}` is `{a}`.",
    "~Tell me the comparative of `{w}`. => The comparative form of `{w}` is `{a}`.",
)


@cache
def _superlative() -> tuple[str, ...]:
    return tuple(line.replace("comparative", "superlative") for line in _COMPARATIVE)


def degree(lexicon: Lexicon, draw: Draw) -> Exercise:
    irregular = tuple(lexicon.forms.irregular_adjectives)
    word = draw.choice(irregular) if draw.chance(0.1) else draw.choice(lexicon.adjectives)
    if draw.chance(0.5):
        word = draw.choice(lexicon.things["short adjective"])
    fact = word in irregular
    if not fact:
        draw.belongs(word)
    vowels = len(re.findall(r"[aeiouy]+", word.removesuffix("e")))
    long = word.endswith(("ful", "less", "ous", "ive", "ent", "ant", "able", "ible"))
    short = word in lexicon.things["short adjective"]
    if fact or short or (vowels == 2 and word.endswith("y") and not word.endswith("ly")):
        forms = lexicon.forms.degrees(word)
        if forms is None or word.endswith(("ed", "ing", "en")):
            raise Skip
    elif vowels >= 2 and long:
        forms = (f"more {word}", f"most {word}")
    else:
        raise Skip
    if draw.chance(0.5):
        return draw.fill("comparative", _COMPARATIVE, known(fact), w=word, a=forms[0])
    return draw.fill("superlative", _superlative(), known(fact), w=word, a=forms[1])
