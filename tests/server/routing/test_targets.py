"""The order in which the targets of a model are tried."""

import random
from collections import Counter

import pytest

from tokenwire_server.routing.targets import TargetState, order_of

TRIES = 20_000


def orders(targets, choice="weighted", tries=TRIES):
    source = random.Random(1)
    return [tuple(order_of(targets, choice, random=source.random)) for _ in range(tries)]


def weights(*values):
    return [TargetState(weight=value) for value in values]


def test_the_first_target_is_chosen_in_proportion_to_the_weights():
    firsts = Counter(order[0] for order in orders(weights(1, 2, 5)))
    shares = [firsts[index] / TRIES for index in range(3)]
    print(f"\nshares of the weights 1, 2, 5: {shares}")
    assert shares == pytest.approx([1 / 8, 2 / 8, 5 / 8], abs=0.02)


def test_after_a_failure_the_next_one_is_chosen_in_proportion_among_the_others():
    seconds = Counter(order[1] for order in orders(weights(1, 2, 5)) if order[0] == 2)
    assert seconds[1] / seconds.total() == pytest.approx(2 / 3, abs=0.02)


def test_a_target_without_weight_is_tried_after_all_others():
    assert {order[-1] for order in orders(weights(0, 0.01, 1000), tries=500)} == {0}


@pytest.mark.parametrize(
    ("loads", "values", "first"),
    [((3, 1, 2), (1, 1, 1), {1}), ((3, 1, 2), (10, 1, 1), {0}), ((0, 5, 0), (1, 1, 1), {0, 2})],
)
def test_the_least_loaded_target_is_first_in_relation_to_its_weight(loads, values, first):
    targets = [TargetState(weight=w, load=load) for w, load in zip(values, loads, strict=True)]
    assert {order[0] for order in orders(targets, "least_loaded", tries=200)} == first


@pytest.mark.parametrize("choice", ["weighted", "least_loaded"])
def test_a_target_that_is_blocked_or_full_is_last_and_one_with_the_conversations_state_first(
    choice,
):
    targets = [
        TargetState(weight=1000, is_usable=False, is_preferred=True),
        TargetState(weight=1, load=3),
        TargetState(weight=1, load=9, is_preferred=True),
        TargetState(weight=0),
    ]
    assert set(orders(targets, choice, tries=200)) == {(2, 1, 3, 0)}


def test_equal_random_numbers_give_equal_orders():
    assert orders(weights(1, 1, 1), tries=50) == orders(weights(1, 1, 1), tries=50)
