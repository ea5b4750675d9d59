"""The tokenizer in the graph against `tokenizers`, on the hostile strings and the whole novel."""

import pytest
from tests.data import hostile_strings, novel_chapters
from tests.tokenizer.graphs import differences, family
from tests.tokenizer.rules import FAMILIES


@pytest.mark.parametrize("name", list(FAMILIES))
def test_ids_of_hostile_strings_are_those_of_tokenizers(name: str) -> None:
    strings = hostile_strings()
    assert len(strings) == 485
    assert differences(family(name), strings) == []


@pytest.mark.parametrize("name", list(FAMILIES))
def test_ids_of_the_novel_are_those_of_tokenizers(name: str) -> None:
    chapters = novel_chapters()
    assert sum(map(len, chapters)) > 1_000_000
    assert differences(family(name), [*chapters, "".join(chapters)]) == []


@pytest.mark.parametrize("name", ["gpt2", "smollm2"])
def test_round_trips_of_the_novel_are_exact(name: str) -> None:
    chapters, tested = novel_chapters(), family(name)
    assert tested.detokenize(tested.tokenize(chapters), True) == chapters


def test_round_trips_of_hostile_strings_are_exact() -> None:
    strings, tested = hostile_strings(), family("gpt2")
    assert tested.detokenize(tested.tokenize(strings), True) == strings
