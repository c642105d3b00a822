import pytest

from tokenwire_server.config import Limits, ModelConfig, ProviderConfig
from tokenwire_server.errors import UnknownModel
from tokenwire_server.providers.registry import Registry

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
async def registry():
    async with Registry(PROVIDERS, MODELS, Limits(), {}) as registry:
        yield registry


async def test_the_most_a_model_gives_goes_with_its_route(registry):
    route = registry.route("open/big")
    assert (route.provider.name, route.model, route.max_output_tokens) == ("open", "big", 4096)
    assert registry.route("open/other").max_output_tokens is None


async def test_an_alias_has_its_targets_facts_but_for_what_it_says_itself(registry):
    route, facts = registry.describe("short")
    assert (route.max_output_tokens, facts.capabilities) == (10, ("tools",))
    assert registry.route("fast").max_output_tokens == 4096
    assert (registry.route("fast").provider.name, registry.route("fast").model) == ("open", "big")


async def test_a_provider_without_its_key_says_which_one_the_operator_must_set(registry):
    with pytest.raises(UnknownModel, match="must set LOCKED_KEY"):
        registry.route("locked/m")
    with pytest.raises(UnknownModel, match="there is no provider 'nobody'"):
        registry.route("nobody/m")
