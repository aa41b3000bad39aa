"""Exercises on sentences: tenses, voices, questions, agreement, parts of speech."""

from dataclasses import replace

from examples.exercises.exercise import Draw, Exercise, Skip, known
from examples.exercises.lexicon import STATIVE, Lexicon
from examples.exercises.morphology import capital
from examples.exercises.sentences import (
    FREQUENCIES,
    PASSIVE_TENSES,
    TENSES,
    Clause,
    Noun,
    verb_phrase,
)

_TENSE = (
    "Change the following sentence to {t} tense. | {s} => {a}",
    "Change the following sentence to the {t} tense. | {s} => {a}",
    "Change this sentence into the {t} tense. | {s} => {a}",
    "Change the sentence to the {t} tense. | {s} => {a}",
    "Rewrite the sentence in {t} tense. | {s} => {a}",
    "Rewrite the sentence in the {t} tense. | {s} => {a}",
    "Rewrite the following sentence in the {t} tense. | {s} => {a}",
    "Rewrite the following phrase in the {t} tense. | {s} => {a}",
    "Rewrite the given passage in the {t} tense. | {s} => {a}",
    "Rewrite the given sentence in the {t} tense. | {s} => {a}",
    "Reword the following sentence to the {t} tense. | {s} => {a}",
    "Alter the content of the sentence to use the {t} tense. | {s} => {a}",
    "Transform the following sentence into the {t} tense. | {s} => {a}",
    "Convert the sentence to {t} tense. | {s} => {a}",
    "Convert the following sentence to the {t} tense: `{s}` => {a}",
    "Convert the given sentence into {t} tense. | {s} => {a}",
    "Change the verb in the sentence to the {t} tense. | {s} => {a}",
    "Change the tense of the sentence to {t}. | {s} => {a}",
    "Rewrite the sentence in the {t} tense: `{s}` => {a}",
    "~Put this sentence into the {t} tense. | {s} => {a}",
    "~Write the sentence below in the {t} tense. | {s} => {a}",
    "~Express the following sentence in {t} tense. | {s} => {a}",
)


def tense(lexicon: Lexicon, draw: Draw) -> Exercise:
    clause = lexicon.clause(draw)
    kinds = TENSES[:9] if draw.chance(0.85) else TENSES
    source = "present simple" if draw.chance(0.7) else draw.choice(TENSES[:3])
    target = draw.choice(kinds if draw.chance(0.5) else TENSES[:3])
    if source == target or ("continuous" in target and clause.verb.base in STATIVE):
        raise Skip
    if not clause.tail and "future" not in (source[:6], target[:6]) and draw.chance(0.15):
        clause = clause.in_place(draw.choice(FREQUENCIES))
    name = target
    if target.endswith("simple"):
        time = target.split()[0]
        name = draw.choice((time, time, time, f"simple {time}", f"{time} simple"))
    return draw.fill(
        "tense",
        _TENSE,
        known(clause.verb.irregular),
        t=name,
        s=clause.sentence(source),
        a=clause.sentence(target),
    )


_PASSIVE = (
    "Convert the active sentence to passive: `{s}` => {a}",
    "Convert this active sentence to passive: `{s}` => {a}",
    "Convert the following sentence to passive voice: `{s}` => {a}",
    "Convert the sentence to passive voice: `{s}` => {a}",
    "Convert the sentence to passive voice: `{s}` | {s} => {a}",
    "Convert the given sentence into passive voice. | {s} => {a}",
    "Convert this sentence to passive voice | {s} => {a}",
    "Convert the following sentence to passive voice. | {s} => {a}",
    "Change the sentences from active voice to passive voice. | {s} => {a}",
    "Change the sentence from active to passive voice. | {s} => {a}",
    "Rewrite the following sentence so that it is in passive voice. | {s} => {a}",
    "Rewrite the following sentence using passive voice. | {s} => {a}",
    "Rewrite the sentence in passive voice. | {s} => {a}",
    "Rewrite this English sentence into passive voice. | {s} => {a}",
    "Transform the following sentence into the passive voice. | {s} => {a}",
    "Change the following sentence to the passive voice. | {s} => {a}",
    "~Put the sentence below into the passive voice. | {s} => {a}",
    "~Turn this active sentence into a passive one. | {s} => {a}",
)

_ACTIVE = (
    "Convert the given sentence into active voice. | {s} => {a}",
    "Convert the following sentence to active voice. | {s} => {a}",
    "Convert the passive sentence to active: `{s}` => {a}",
    "Change the sentence from passive to active voice. | {s} => {a}",
    "Edit the following sentence to remove all passive voice. | {s} => {a}",
    "Re-word this sentence using an active voice. | {s} => {a}",
    "Rewrite the following sentence so that it is in active voice. | {s} => {a}",
    "Rewrite the following sentence using the active voice. | {s} => {a}",
    "Rewrite this sentence to eliminate the passive voice. | {s} => {a}",
    "Given the following sentence, rewrite it by removing the passive form | {s} => {a}",
    "Rewrite the sentence so that it does not contain any passive voice. | {s} => {a}",
    "Transform the following sentence into the active voice. | {s} => {a}",
    "~Turn this passive sentence into an active one. | {s} => {a}",
    "~Put the sentence below into the active voice. | {s} => {a}",
)


def _voiced(lexicon: Lexicon, draw: Draw) -> tuple[Clause, str]:
    clause = lexicon.transitive(draw)
    if clause.verb.base in STATIVE - {"love", "like", "hear", "see", "enjoy"}:
        raise Skip
    if clause.subject.form == "I" and clause.object and "I" in clause.object.text.split():
        raise Skip
    chosen = draw.choice((*PASSIVE_TENSES[:3] * 2, "past simple", "past simple", *PASSIVE_TENSES))
    if "continuous" in chosen and clause.verb.base in STATIVE:
        raise Skip
    if draw.chance(0.15) and chosen in TENSES[:2]:
        tail = "every day" if chosen == "present simple" else "yesterday"
        clause = clause.in_place(tail)
    elif draw.chance(0.1) and chosen == "future simple":
        clause = clause.in_place("tomorrow")
    return clause, chosen


def passive(lexicon: Lexicon, draw: Draw) -> Exercise:
    clause, chosen = _voiced(lexicon, draw)
    if draw.chance(0.06):
        word = draw.choice(("must", "should", "can"))
        source, answer = clause.modal(word), clause.passive(word)
    else:
        source, answer = clause.sentence(chosen), clause.passive(chosen)
    fact = clause.verb.irregular
    return draw.fill("passive voice", _PASSIVE, known(fact), s=source, a=answer)


def active(lexicon: Lexicon, draw: Draw) -> Exercise:
    clause, chosen = _voiced(lexicon, draw)
    source, answer = clause.passive(chosen), clause.sentence(chosen)
    return draw.fill("active voice", _ACTIVE, known(clause.verb.irregular), s=source, a=answer)


_QUESTION = (
    "Convert the following statement into a question. | {s} => {a}",
    "Rewrite this sentence as a question. | {s} => {a}",
    "rewrite this sentence as a question. | {s} => {a}",
    "Rewrite the following phrase as a question. | {s} => {a}",
    "Rewrite the following sentence as a question. | {s} => {a}",
    "Change the sentence `{s}` into a question. => {a}",
    "Change the following sentence into a question. | {s} => {a}",
    "Convert this declarative sentence into an interrogative sentence. | {s} => {a}",
    "Transform the following sentence into a question. | {s} => {a}",
    "~Make this statement into a question. | {s} => {a}",
    "~Turn the sentence below into a yes-or-no question. | {s} => {a}",
)

_NEGATIVE = (
    "Convert the sentence into a negative statement. | {s} => {a}",
    "Rewrite the sentence in the negative form. | {s} => {a}",
    "Change the following sentence to a negative sentence. | {s} => {a}",
    "Make the sentence negative. | {s} => {a}",
    "~Write the negative form of this sentence. | {s} => {a}",
)

_COMMAND = (
    "Rewrite this statement as an imperative sentence. | {s} => {a}",
    "Transform the following sentence into a command. | {s} => {a}",
    "Convert this declarative sentence into a command: `{s}` => {a}",
    "Change the sentence into an imperative sentence. | {s} => {a}",
    "Transform the given statement into an imperative sentence. | {s} => {a}",
    "~Turn the sentence into an order. | {s} => {a}",
)

_TAG = (
    "Convert the sentence into a question by adding a question tag. | {s} => {a}",
    "Add a question tag to the sentence. | {s} => {a}",
    "Turn the statement into a tag question. | {s} => {a}",
    "~Complete the sentence with a question tag. | {s} => {a}",
)


def question(lexicon: Lexicon, draw: Draw) -> Exercise:
    clause = lexicon.clause(draw)
    chosen = draw.choice((*TENSES[:2] * 2, *TENSES[2:8]))
    if "continuous" in chosen and clause.verb.base in STATIVE:
        raise Skip
    if draw.chance(0.12):
        word = draw.choice(("must", "should", "can", "could"))
        source = clause.modal(word)
        answer = f"{capital(word)} {source.replace(f' {word} ', ' ', 1)[:-1]}?"
        if clause.subject.text[0] != "I" and clause.subject.text[0].islower():
            answer = answer.replace(capital(clause.subject.text), clause.subject.text, 1)
    else:
        source, answer = clause.sentence(chosen), clause.question(chosen)
    return draw.fill("question", _QUESTION, known(clause.verb.irregular), s=source, a=answer)


def negative(lexicon: Lexicon, draw: Draw) -> Exercise:
    clause = lexicon.clause(draw)
    chosen = draw.choice((*TENSES[:3] * 2, *TENSES[3:8]))
    if "continuous" in chosen and clause.verb.base in STATIVE:
        raise Skip
    source, answer = clause.sentence(chosen), clause.negative(chosen)
    return draw.fill("negative", _NEGATIVE, known(clause.verb.irregular), s=source, a=answer)


def command(lexicon: Lexicon, draw: Draw) -> Exercise:
    clause = replace(lexicon.clause(draw), subject=Noun("you", "they"))
    source = clause.modal(draw.choice(("should", "should", "must", "need to")))
    fact = clause.verb.irregular
    return draw.fill("command", _COMMAND, known(fact), s=source, a=clause.command())


def tag(lexicon: Lexicon, draw: Draw) -> Exercise:
    clause = lexicon.clause(draw)
    if clause.subject.form == "I" or clause.subject.text[0].isupper():
        raise Skip
    subject = clause.subject.text
    pronoun = subject if " " not in subject else "they"
    if " " in subject and clause.subject.form != "they":
        raise Skip  # he or she? it is not known
    chosen = draw.choice(("present continuous", "past continuous", "future simple", "past simple"))
    if "continuous" in chosen and clause.verb.base in STATIVE:
        raise Skip
    aux = "did" if chosen == "past simple" else ""
    aux = aux or verb_phrase(clause.verb, chosen, clause.subject.form)[0].split()[0]
    short = {"will": "won't"}.get(aux, f"{aux}n't")
    source = clause.sentence(chosen)
    answer = f"{source[:-1]}, {short} {pronoun}?"
    return draw.fill("question tag", _TAG, known(clause.verb.irregular), s=source, a=answer)
