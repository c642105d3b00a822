import pytest

from tokenwire_server.config import Limits, ModelConfig, ProviderConfig
from tokenwire_server.errors import UnknownModel
from tokenwire_server.providers.registry import ProviderRegistry
from tokenwire_server.routing.plan import Router

PROVIDERS = {
    "open": ProviderConfig(kind="openai-chat", base_url="http://127.0.0.1:9"),
    "locked": ProviderConfig(
        kind="anthropic", base_url="http://127.0.0.1:9", api_key_env="LOCKED_KEY"
    ),
}
MODELS = {
    "fast": ModelConfig(target="open/big"),
    "short": ModelConfig(target="open/big", max_output_tokens=10),
    "open/big": ModelConfig(max_output_tokens=4096, capabilities=("tools",)),
}


@pytest.fixture
async def router():
    async with ProviderRegistry(PROVIDERS, Limits(), {}) as providers:
        yield Router(providers, MODELS)


async def test_a_route_carries_the_models_output_limit(router):
    route = router.route("open/big")
    assert (route.provider.name, route.model, route.max_output_tokens) == ("open", "big", 4096)
    assert router.route("open/other").max_output_tokens is None


async def test_an_alias_inherits_what_it_does_not_set_from_its_target(router):
    route, config = router.describe("short")
    assert (route.max_output_tokens, config.capabilities) == (10, ("tools",))
    fast = router.route("fast")
    assert (fast.provider.name, fast.model, fast.max_output_tokens) == ("open", "big", 4096)


async def test_a_provider_without_its_key_is_refused_with_the_variable_that_the_operator_must_set(
    router,
):
    with pytest.raises(UnknownModel, match="must set LOCKED_KEY"):
        router.route("locked/m")
    with pytest.raises(UnknownModel, match="there is no provider 'nobody'"):
        router.route("nobody/m")
