"""A conversation on the real server: no turn computes again what a turn before has computed."""

import itertools

import pytest
from tests.bench.conversation import converse

from cadenza.client import Client
from cadenza.server.runner.cpu.options import BLOCK_SIZE

pytestmark = pytest.mark.real_model


def test_every_turn_finds_all_full_blocks_of_the_turns_before(client: Client) -> None:
    turns = converse(client, BLOCK_SIZE, "Test")
    assert [turn.cached for turn in turns] == [turn.expected for turn in turns]
    assert turns[0].cached == 0
    for before, turn in itertools.pairwise(turns):
        assert turn.cached > before.prompt_tokens - BLOCK_SIZE
