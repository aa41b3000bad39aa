"""Exercises on what is in a sentence: agreement, tense, type, who said what, parts of speech."""

from dataclasses import replace

from examples.exercises.exercise import Draw, Exercise, Skip, known
from examples.exercises.lexicon import STATIVE, Lexicon
from examples.exercises.morphology import article, capital
from examples.exercises.sentences import FREQUENCIES, TENSES, Clause, Noun, verb_phrase

_AGREEMENT = (
    "Edit the following sentence for grammar. | {s} => {a}",
    "Edit the following sentence to correct any grammar errors. | {s} => {a}",
    "Edit the given sentence to make it grammatically correct. | {s} => {a}",
    "Edit the sentence to make it grammatically correct. | {s} => {a}",
    "Change this sentence grammatically. | {s} => {a}",
    "Fix the following grammar mistake. | {s} => {a}",
    "Correct the grammatical errors in this sentence. | {s} => {a}",
    "Correct the sentence. | {s} => {a}",
    "Edit the sentence. | {s} => {a}",
    "Rewrite this sentence using appropriate grammar rules: | {s} => {a}",
    "Edit the given text to ensure all plural nouns are spelled correctly. | {s} => {a}",
    "Correct the grammar in the following sentence. | {s} => {a}",
    "Correct the verb tense error in the sentence. | {s} "
    "=> The corrected sentence should be: `{a}`",
    "~Repair the grammar of this sentence. | {s} => {a}",
    "~There is a grammar mistake in this sentence. Correct it. | {s} => {a}",
)


def agreement(lexicon: Lexicon, draw: Draw) -> Exercise:
    clause = lexicon.clause(draw)
    chosen = draw.choice(("present simple", "present simple", *TENSES[3:5], "present perfect"))
    if "continuous" in chosen and clause.verb.base in STATIVE:
        raise Skip
    if chosen == "present simple" and draw.chance(0.3) and not clause.tail:
        clause = clause.in_place(draw.choice(FREQUENCIES))
    right = clause.sentence(chosen)
    aux, main = verb_phrase(clause.verb, chosen, clause.subject.form)
    wrong_form = "they" if clause.subject.form == "he" else "he"
    wrong_aux, wrong_main = verb_phrase(clause.verb, chosen, wrong_form)
    old, new = f"{aux} {main}".strip(), f"{wrong_aux} {wrong_main}".strip()
    wrong = right.replace(f" {old}", f" {new}", 1)
    if wrong == right:
        raise Skip
    if draw.chance(0.04):
        wrong = right  # what is right stays as it is
    return draw.fill("grammar", _AGREEMENT, known(clause.verb.irregular), s=wrong, a=right)


_WHICH_TENSE = (
    "Identify the tense used in the sentence. | {s} => "
    "The tense used in the sentence `{r}` is the {a} tense.",
    "Identify the tense of the sentence. | {s} => The tense of the sentence is {a} tense.",
    "~Which tense is used in this sentence? | {s} => "
    "The tense used in the sentence `{r}` is the {a} tense.",
)

_TYPE = (
    "Identify the type of sentence. | {s} => The type of sentence is {a}.",
    "Classify each sentence as either declarative, interrogative, imperative, or exclamatory. "
    "| {s} => The classification of the sentence `{s}` is {a}.",
    "~Which type of sentence is this? | {s} => The type of sentence is {a}.",
)


def which_tense(lexicon: Lexicon, draw: Draw) -> Exercise:
    clause = lexicon.clause(draw)
    chosen = draw.choice(TENSES)
    if "continuous" in chosen and clause.verb.base in STATIVE:
        raise Skip
    if clause.verb.base == clause.verb.past and "simple" in chosen:
        raise Skip
    source = clause.sentence(chosen)
    values = {"s": source, "r": source[:-1], "a": chosen}
    return draw.fill("which tense", _WHICH_TENSE, known(clause.verb.irregular), **values)


def sentence_type(lexicon: Lexicon, draw: Draw) -> Exercise:
    clause = lexicon.clause(draw)
    chosen = draw.choice(TENSES[:5])
    if "continuous" in chosen and clause.verb.base in STATIVE:
        raise Skip
    thing = draw.choice(lexicon.nouns[:300])
    adjective = draw.choice(lexicon.things["adjective"])
    polite = capital(clause.command()[:1].lower() + clause.command()[1:])
    source, answer = draw.choice(
        (
            (clause.sentence(chosen), "declarative"),
            (clause.question(chosen), "interrogative"),
            (polite, "imperative"),
            ("Please " + polite[0].lower() + polite[1:], "imperative"),
            (f"What {article(f'{adjective} {thing}')}!", "exclamatory"),
        )
    )
    return draw.fill("sentence type", _TYPE, known(clause.verb.irregular), s=source, a=answer)


_INDIRECT = (
    "Given a sentence, convert it into indirect speech. | {s} => {a}",
    "Convert the sentence into indirect speech. | {s} => {a}",
    "Change the following sentence from direct to indirect speech. | {s} => {a}",
    "~Report what was said in indirect speech. | {s} => {a}",
)

_DIRECT = (
    "Given a sentence, convert it into direct speech. | {s} => {a}",
    "Convert the sentence into direct speech. | {s} => {a}",
    "~Write the sentence in direct speech. | {s} => {a}",
)


def speech(lexicon: Lexicon, draw: Draw) -> Exercise:
    name = draw.choice(("He", "She", *lexicon.things["name"]))
    pronoun = (
        name.lower() if len(name) < 4 and name in ("He", "She") else draw.choice(("he", "she"))
    )
    if draw.chance(0.4):
        adjective = draw.choice(
            ["tired", "hungry", "happy", "sad", "busy", "late", "ready", "sick", "angry", "cold"]
        )
        draw.belongs(f"speech {name} {adjective}")
        said, reported = f"I am {adjective}", f"{pronoun} was {adjective}"
        fact = False
    else:
        clause = lexicon.clause(draw)
        chosen, then = draw.choice(
            (("present continuous", "past continuous"), ("present simple", "past simple"))
        )
        if clause.verb.base in STATIVE and "continuous" in chosen:
            raise Skip
        said = replace(clause, subject=Noun("I", "I")).sentence(chosen)[:-1]
        past = replace(clause, subject=Noun(pronoun)).sentence(then)[:-1]
        reported = past[0].lower() + past[1:]
        fact = clause.verb.irregular
    if name not in ("He", "She"):
        name = {"he": "He", "she": "She"}[pronoun]
    if draw.chance(0.75):
        values = {"s": f'{name} said, "{said}."', "a": f"{name} said that {reported}."}
        return draw.fill("indirect speech", _INDIRECT, known(fact), **values)
    values = {"s": f"{name} said that {reported}.", "a": f"'{said},' {name.lower()} said."}
    return draw.fill("direct speech", _DIRECT, known(fact), **values)


_FIND = {
    "adjective": (
        "Identify the adjective in the sentence. | {s} => The adjective in the sentence is `{a}`.",
        "~Which word in the sentence is an adjective? | {s} "
        "=> The adjective in the sentence is `{a}`.",
    ),
    "adverb": (
        "Identify the adverb in the sentence | {s} => The adverb in the sentence is `{a}`.",
        "Identify the adverb in the sentence. | {s} => The adverb in the sentence is `{a}`.",
        "~Which word in the sentence is an adverb? | {s} => The adverb in the sentence is `{a}`.",
    ),
    "verb": (
        "Identify the main verb in the sentence. | {s} => The main verb in the sentence is `{a}`.",
        "Identify the verb in the following sentence | {s} => The verb in the sentence is `{a}`.",
        "Identify the verb in the sentence. | {s} => The verb in the sentence is `{a}`.",
        "~Which word in the sentence is the verb? | {s} => The verb in the sentence is `{a}`.",
    ),
    "preposition": (
        "Identify the preposition in the sentence. | {s} "
        "=> The preposition in the sentence is `{a}`.",
        "~Which word in the sentence is a preposition? | {s} "
        "=> The preposition in the sentence is `{a}`.",
    ),
    "pronoun": (
        "Identify the pronoun in the sentence. | {s} => The pronoun in the sentence is `{a}`.",
        "~Which word in the sentence is a pronoun? | {s} => The pronoun in the sentence is `{a}`.",
    ),
    "subject": (
        "Identify the main subject in the sentence. | {s} "
        "=> The main subject in the sentence is `{a}`.",
        "Identify the subject of the sentence. | {s} => The subject of the sentence is `{a}`.",
        "~What is the subject of this sentence? | {s} => The subject of the sentence is `{a}`.",
    ),
}


def find_word(lexicon: Lexicon, draw: Draw) -> Exercise:
    """The one adjective, adverb, verb... of a sentence that has no other."""
    wanted = draw.choice(tuple(_FIND))
    adjectives = draw.choice(("adjective", "short adjective"))
    adjective = draw.choice(lexicon.things[adjectives])
    who = draw.choice(lexicon.things[draw.choice(("people", "mammal", "bird"))])
    clause = lexicon.intransitive(draw, anybody=True)
    place = draw.choice(lexicon.things["preposition"])
    where = (
        f"{place} the {draw.choice(['table', 'house', 'tree', 'fence', 'river', 'bridge', 'wall'])}"
    )
    pronoun = draw.choice(("he", "she", "they", "we", "it"))
    if wanted == "adjective":
        draw.belongs(adjective)
        subject, tail, answer = f"the {adjective} {who}", "", adjective
    elif wanted == "adverb":
        answer = draw.choice(lexicon.things["adverb"])
        subject, tail = f"the {who}", answer
    elif wanted == "preposition":
        answer, subject, tail = place, f"the {who}", where
    elif wanted == "pronoun":
        answer, subject, tail = capital(pronoun), pronoun, where
    elif wanted == "verb":
        answer, subject, tail = (
            clause.verb.past,
            f"the {who}",
            draw.choice(lexicon.things["adverb"]),
        )
    else:
        subject, tail = f"the {adjective} {who}", where
        answer = capital(subject)
    sentence = Clause(Noun(subject), clause.verb, None, tail).sentence("past simple")
    fact = wanted in ("adverb", "preposition", "pronoun") or clause.verb.irregular
    return draw.fill(f"find the {wanted}", _FIND[wanted], known(fact), s=sentence, a=answer)


_RELATIVE = (
    "Convert the following sentence to use a relative clause: {s} => {a}",
    "Combine the two sentences using a relative clause. | {s} => {a}",
    "~Join the sentences with a relative clause. | {s} => {a}",
)


def relative_clause(lexicon: Lexicon, draw: Draw) -> Exercise:
    clause = lexicon.intransitive(draw, anybody=True)
    who = draw.choice(("man", "woman", "lady", "gentleman"))
    job = draw.choice(lexicon.things["job"])
    does = replace(clause, subject=Noun("X")).sentence("present simple")[2:-1]
    pronoun = "He" if who in ("man", "gentleman") else "She"
    first = f"The {who} is {article(job)}."
    values = {"s": f"{first} {pronoun} {does}.", "a": f"The {who} who {does} is {article(job)}."}
    return draw.fill("relative clause", _RELATIVE, known(clause.verb.irregular), **values)
