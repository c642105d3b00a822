"""The limits on waiting for an answer: which one is reached, and when."""

import msgspec
import pytest

from tokenwire_server.config import Limits
from tokenwire_server.providers.base import Route
from tokenwire_server.request import ChatRequest, Generation
from tokenwire_server.routing.time_limits import DRIP, FIRST_CONTENT, IDLE, TimeLimits

LIMITS = Limits(upstream_first_content_s=60, upstream_drip_s=180, upstream_idle_s=30)


def limits_of(*, generation=None, **route):
    request = ChatRequest(model="m", messages=(), generation=generation or Generation())
    return TimeLimits.of(Route(None, "m", None, **route), LIMITS, request)


def reached(limits, head_s, arrivals_s):
    """Return the limit that ends an answer, and when, with the times since its request."""
    head, wait = None, limits.before_content(0.0, requested=0.0, head=None)
    began = 0.0
    for arrival in (head_s, *arrivals_s):
        if arrival > began + wait.left_s:
            break
        began, head = arrival, head_s
        wait = limits.before_content(arrival, requested=0.0, head=head)
    return wait.limit, began + wait.left_s


PINGS = [20.0 * n for n in range(1, 100)]


@pytest.mark.parametrize(
    ("route", "head_s", "arrivals_s", "expected"),
    [
        pytest.param({}, 99, [], (IDLE, 30), id="no-head"),
        pytest.param({"idle_s": 90}, 99, [], (FIRST_CONTENT, 60), id="no-head-of-a-patient-model"),
        pytest.param({}, 1, [5], (IDLE, 35), id="silence"),
        pytest.param({}, 1, PINGS, (FIRST_CONTENT, 60), id="pings"),
        pytest.param({"first_content_s": 100}, 1, PINGS, (FIRST_CONTENT, 100), id="own-limit"),
        pytest.param({"first_content_s": 0}, 15, PINGS, (DRIP, 195), id="off"),
        pytest.param({"reasons": True}, 15, PINGS, (DRIP, 195), id="reasoning-pings"),
        pytest.param({"reasons": True}, 99, [], (IDLE, 30), id="reasoning-no-head"),
        pytest.param({"reasons": True}, 1, [5], (IDLE, 35), id="reasoning-silence"),
        pytest.param(
            {"reasons": True, "first_content_s": 100}, 1, PINGS, (FIRST_CONTENT, 100), id="both"
        ),
        pytest.param({"reasons": True, "drip_s": 40}, 1, PINGS, (DRIP, 41), id="own-drip"),
        pytest.param(
            {"reasons": True, "drip_s": 0}, 1, PINGS, (IDLE, PINGS[-1] + 30), id="no-drip"
        ),
    ],
)
def test_before_the_first_content_the_limit_that_comes_first_is_reached(
    route, head_s, arrivals_s, expected
):
    assert reached(limits_of(**route), head_s, arrivals_s) == expected


@pytest.mark.parametrize(
    "generation",
    [
        Generation(reasoning_effort="low"),
        Generation(reasoning_budget_tokens=1024),
        Generation(reasoning_summary="auto"),
    ],
)
def test_a_request_for_reasoning_has_no_limit_on_its_first_content(generation):
    limits = limits_of(generation=generation)
    assert limits == msgspec.structs.replace(limits_of(), first_content_s=0)
    assert limits_of(generation=Generation(reasoning_effort="none")) == limits_of()


def test_after_the_first_content_only_silence_is_limited():
    assert limits_of(idle_s=7).after_content() == (7, IDLE, 7)
