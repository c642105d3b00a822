"""Models that a key may see and call, with aliases."""

from decimal import Decimal

import grpc
import grpc.aio
import pytest
from e2e_calls import info, reason
from tenants_support import bearer

from tokenwire.v1 import model_pb2
from tokenwire_server.config import ModelConfig, ModelPrices
from tokenwire_server.tenants.key import make_key_text

PRICES = ModelPrices(
    input=Decimal(1),
    output=Decimal(2),
    cache_read=Decimal(3),
    cache_write=Decimal(4),
    cache_write_1h=Decimal(5),
)
ALIASES = {
    "best": ModelConfig(target="openai/sim?tokens=1&key=best"),
    "fast": ModelConfig(target="openai/sim?tokens=1"),
    "fist": ModelConfig(target="openai/other", prices=PRICES),
    "unusable": ModelConfig(target="anthropic/sim"),  # this server has no key of the provider
}


@pytest.fixture
async def api(serve):
    """The RPCs of a server with aliases. `api.key(...)` returns the metadata of a key for some models."""
    may = [("fast",), ("openai/sim*",), ("best", "fist"), ("fast", "fost"), ("nothing",), ()]
    keys = {make_key_text(): {"models": models} for models in may}
    api = await serve(keys, models=ALIASES)
    texts = {fields["models"]: text for text, fields in keys.items()}
    api.key = lambda *models: bearer(texts[models])
    return api


@pytest.mark.parametrize(
    ("models", "seen"),
    [
        (("fast",), ["fast"]),
        (("openai/sim*",), ["best", "fast"]),
        (("best", "fist"), ["best", "fist"]),
        (("nothing",), []),
        ((), ["best", "fast", "fist"]),
    ],
)
async def test_the_list_contains_only_models_that_the_key_may_call_and_the_server_can(
    api, models, seen
):
    listed = await api.list_models(model_pb2.ListModelsRequest(), metadata=api.key(*models))
    assert [model.id for model in listed.models] == seen


async def test_each_price_is_in_its_own_field(api):
    priced = await api.get_model(model_pb2.GetModelRequest(id="fist"), metadata=api.key())
    assert priced.prices == model_pb2.ModelPrices(
        input_microusd=1_000_000,
        output_microusd=2_000_000,
        cache_read_microusd=3_000_000,
        cache_write_microusd=4_000_000,
        long_cache_write_microusd=5_000_000,
    )


async def test_a_key_for_an_alias_allows_its_target_only_by_that_name(api):
    key = api.key("fast")
    await api.chat(api.request("fast"), metadata=key)
    for other in ("openai/sim?tokens=1", "best"):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await api.chat(api.request(other), metadata=key)
        assert reason(refused.value) == "PERMISSION_DENIED"


async def test_a_key_for_a_model_allows_every_alias_of_it(api):
    key = api.key("openai/sim*")
    for alias in ("fast", "best", "openai/sim?tokens=1"):
        await api.chat(api.request(alias), metadata=key)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await api.chat(api.request("fist"), metadata=key)
    assert reason(refused.value) == "PERMISSION_DENIED"


async def test_the_error_for_a_misspelled_model_names_similar_ones_that_the_key_may_call(api):
    for models, nearest in ((("fast", "fost"), {"fast"}), ((), {"fast", "fist"})):
        key = api.key(*models)
        for call in (
            api.chat(api.request("fost"), metadata=key),
            api.get_model(model_pb2.GetModelRequest(id="fost"), metadata=key),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await call
            assert refused.value.code() == grpc.StatusCode.NOT_FOUND
            assert set(info(refused.value).metadata["nearest"].split(",")) == nearest
            assert "'fost' is neither" in refused.value.details()
            for name in ALIASES.keys() - nearest:
                assert name not in refused.value.details()
