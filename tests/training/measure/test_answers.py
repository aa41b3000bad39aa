"""Which answers count as right, and how near the others are."""

import pytest

from training.measure.answers import Response, comparable, response_metrics, rouge_l


@pytest.mark.parametrize(
    ("one", "two", "same"),
    [
        ("The past tense of 'build' is 'built'.", 'the past  tense of "build" is "built."', True),
        ("Carefully.", "carefully", True),
        ("they're", "theyre", False),
        ("1, 3, 7.", "1, 3, 7", True),
        ("1, 3, 7", "1, 7, 3", False),
        ("Where are you going?", "Where are you going", False),
        ("0.5 meters", "05 meters", False),
        ("\u2018Hi,\u2019 she said.", "'Hi,' she said.", True),
    ],
)
def test_case_spacing_quotes_and_a_last_full_stop_are_left_aside(
    one: str, two: str, same: bool
) -> None:
    assert (comparable(one) == comparable(two)) == same


def test_rouge_l_is_the_papers_example() -> None:
    """Lin 2004, section 3.1: of `police killed the gunman`, S2 shares 3 words in order, S3 two."""
    reference = "police killed the gunman"
    assert rouge_l(reference, "police kill the gunman") == pytest.approx(3 / 4)
    assert rouge_l(reference, "the gunman kill police") == pytest.approx(2 / 4)
    assert rouge_l(reference, "Police killed the gunman.") == 1
    assert rouge_l("a b c d e", "a x e") == pytest.approx(2 * (2 / 5) * (2 / 3) / (2 / 5 + 2 / 3))
    assert rouge_l("word", "") == rouge_l("", "word") == 0
    assert rouge_l("...", "?") == 1


def test_metrics_by_kind_count_what_has_one_right_answer() -> None:
    def response(output: str, answer: str, kind: str, **fields: object) -> Response:
        return Response("Do it.", "", output, answer, kind, **fields)  # type: ignore[arg-type]

    responses = [
        response("ran", "ran", "past"),
        response("sang", "singed", "past"),
        response("big", "huge", "synonym", unique=False, accept=("huge",)),
        response("x", "x\n\n### Instruction:\nGo on.", "", ended=False),
    ]
    found = response_metrics(responses)
    assert found["exact_match"]["value"] == 2 / 4
    assert found["kinds"].keys() == {"past"}
    assert found["kinds"]["past"]["value"] == 1 / 2
    assert found["ended"]["value"] == 3 / 4
    assert found["second_turn"]["value"] == 1 / 4
    low, high = found["rouge_l"]["interval"]
    assert 0 <= low <= found["rouge_l"]["value"] <= high <= 1
    assert "kinds" not in response_metrics(responses[3:])
