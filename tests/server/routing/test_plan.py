import random

import pytest

from tokenwire_server.config import Limits, ModelConfig, ProviderConfig
from tokenwire_server.errors import PermissionDenied, UnknownModel
from tokenwire_server.providers.registry import ProviderRegistry
from tokenwire_server.providers.state import tag
from tokenwire_server.request import Message, Text
from tokenwire_server.routing.plan import Router

PROVIDERS = {
    "open": ProviderConfig(kind="openai-chat", base_url="http://127.0.0.1:9"),
    "locked": ProviderConfig(
        kind="anthropic", base_url="http://127.0.0.1:9", api_key_env="LOCKED_KEY"
    ),
    "other": ProviderConfig(kind="openai-chat", base_url="http://127.0.0.1:9", max_connections=1),
    "third": ProviderConfig(kind="openai-chat", base_url="http://127.0.0.1:9"),
}
MODELS = {
    "fast": ModelConfig(target="open/big"),
    "short": ModelConfig(target="open/big", max_output_tokens=10),
    "open/big": ModelConfig(max_output_tokens=4096, capabilities=("tools",)),
    "several": ModelConfig(targets=("open/big", "locked/m", "other/big", "third/big"), idle_s=7),
    "alias": ModelConfig(target="several"),
    "open/safe": ModelConfig(fallbacks=("safe", "fast")),
    "safe": ModelConfig(target="open/safe"),
}


@pytest.fixture
async def router():
    async with ProviderRegistry(PROVIDERS, Limits(), {}) as providers:
        yield Router(providers, MODELS, random=random.Random(1).random)


async def test_a_route_carries_the_models_output_limit(router):
    route = router.describe("open/big")[0]
    assert (route.provider.name, route.model, route.max_output_tokens) == ("open", "big", 4096)
    assert router.describe("open/other")[0].max_output_tokens is None


async def test_an_alias_inherits_what_it_does_not_set_from_its_target(router):
    route, config = router.describe("short")
    assert (route.max_output_tokens, config.capabilities) == (10, ("tools",))
    fast = router.describe("fast")[0]
    assert (fast.provider.name, fast.model, fast.max_output_tokens) == ("open", "big", 4096)


async def test_another_configuration_applies_to_models_that_were_requested_before(router):
    for name, limit in (("short", 10), ("open/big", 4096), ("open/other", None)):
        assert router.routes(name, ())[0].max_output_tokens == limit
    router.replace(
        {
            "short": ModelConfig(target="open/small"),
            "open/small": ModelConfig(max_output_tokens=20),
            "open/other": ModelConfig(max_output_tokens=30),
        }
    )
    (short,) = router.routes("short", ())
    assert (short.model, short.max_output_tokens) == ("small", 20)
    assert router.routes("open/other", ())[0].max_output_tokens == 30
    assert router.routes("open/big", ())[0].max_output_tokens is None


async def test_only_configured_models_are_remembered(router):
    for number in range(100):
        router.routes(f"open/{number}", ())
    assert not router._targets


async def test_a_model_is_no_fallback_of_itself_also_if_it_inherits_its_fallbacks(router):
    assert router.fallbacks("safe") == ("fast",)
    assert router.fallbacks("open/safe") == ("safe", "fast")


async def test_a_provider_without_its_key_is_refused_with_the_variable_that_the_operator_must_set(
    router,
):
    with pytest.raises(UnknownModel, match="must set LOCKED_KEY"):
        router.describe("locked/m")[0]
    with pytest.raises(UnknownModel, match="there is no provider 'nobody'"):
        router.describe("nobody/m")[0]


class OwnKeys:
    """acme has a key for `locked`, and strict may only use its own keys."""

    def __init__(self, providers):
        self.providers = providers

    def provider(self, tenant, name):
        is_own = (tenant, name) == ("acme", "locked")
        return self.providers.with_key(name, "own") if is_own else None

    def may_use_server_keys(self, tenant):
        return tenant != "strict"


async def test_a_route_says_whose_key_is_sent():
    async with ProviderRegistry(PROVIDERS, Limits(), {}) as providers:
        router = Router(providers, MODELS, own_keys=OwnKeys(providers))
        routes = router.routes("several", (), "acme")
        owners = {route.provider.name: (route.key_owner, route.account) for route in routes}
        assert owners == {
            "open": ("", "open"),
            "locked": ("acme", "locked/acme"),
            "other": ("", "other"),
            "third": ("", "third"),
        }
        assert {route.provider.name for route in router.routes("several", (), "globex")} == {"open", "other", "third"}  # fmt: skip
        for model in ("open/big", "several", "alias"):
            with pytest.raises(PermissionDenied, match="tenant 'strict' needs its own key"):
                router.routes(model, (), "strict")
        with pytest.raises(UnknownModel, match="there is no provider 'nobody'"):
            router.routes("nobody/m", (), "strict")


def firsts(router, model, messages=()):
    """Return the names of the providers that are tried first, in many requests."""
    return {router.routes(model, messages)[0].provider.name for _ in range(50)}


@pytest.mark.parametrize("model", ["several", "alias"])
async def test_the_targets_whose_providers_have_their_key_are_routes_to_one_model(router, model):
    routes = router.routes(model, ())
    assert {str(route) for route in routes} == {"open/big", "other/big", "third/big"}
    assert {(route.name, route.idle_s) for route in routes} == {(model, 7)}
    assert {str(r): r.max_output_tokens for r in routes}["open/big"] == 4096
    assert firsts(router, model) == {"open", "other", "third"}


async def test_a_provider_without_a_free_connection_is_tried_last(router):
    next(
        r for r in router.routes("several", ()) if r.provider.name == "other"
    ).provider.slots.acquire()
    assert {router.routes("several", ())[-1].provider.name for _ in range(50)} == {"other"}


async def test_a_conversation_stays_with_the_provider_that_has_its_state(router):
    def said(maker):
        return Message("assistant", (Text("hi", state=tag(maker, b"data")),))

    question = Message("user", (Text("and?"),))
    assert firsts(router, "several", (said("open"), question, said("third"), question)) == {"third"}
    assert len(firsts(router, "several", (said("foreign"), question))) == 3
