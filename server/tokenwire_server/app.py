"""The composition root: builds the server from its settings, owns every long-lived task, drains."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack

from .config import ConfigError, ModelConfig, ProviderConfig, Settings, known_providers
from .providers.registry import Registry
from .rpc.server import GrpcServer
from .rpc.service import ChatService, ModelService
from .simulator import Simulator
from .streams.registry import StreamRegistry

logger = logging.getLogger(__name__)

LAST_WORDS_S = 1.0
"""How long RPCs may take to tell their callers that the server stops."""
DEMO_KEYS = {"OPENAI_API_KEY": "demo", "ANTHROPIC_API_KEY": "demo"}
DEMO_MODELS = ("openai/demo", "openai-responses/demo", "anthropic/demo")


async def serve(
    settings: Settings,
    environ: Mapping[str, str],
    *,
    demo: bool,
    ready: Callable[[str], None],
    stop: asyncio.Event,
) -> None:
    """Serve until `stop` is set, then drain. `ready` gets the address once RPCs are answered.

    Raises ConfigError when no provider can be used, or the address cannot be had.
    """
    async with AsyncExitStack() as stack:
        models = dict(settings.models)
        if demo:
            simulator = await stack.enter_async_context(Simulator())
            environ = {
                **environ,
                **DEMO_KEYS,
                "OPENAI_BASE_URL": f"{simulator.url}/v1",
                "ANTHROPIC_BASE_URL": simulator.url,
            }
            models |= {
                name: ModelConfig(capabilities=("tools", "reasoning")) for name in DEMO_MODELS
            }
        providers = {**known_providers(environ), **settings.providers}
        _require_a_key(providers, environ)
        _require_targets(models, providers)
        registry = await stack.enter_async_context(
            Registry(providers, models, settings.limits, environ)
        )
        server = GrpcServer(settings.limits)
        port = server.bind(settings.listen)
        tasks = await stack.enter_async_context(asyncio.TaskGroup())
        streams = StreamRegistry(settings.limits, tasks)
        await server.start(
            ChatService(registry, streams, settings.limits), ModelService(registry, settings.limits)
        )
        # A collection that walks what the SDKs imported stops every stream for 100 ms; none need to.
        gc.collect()
        gc.freeze()
        ready(f"{settings.listen.rpartition(':')[0]}:{port}")
        await stop.wait()
        logger.info("stopping: %d streams are open", streams.live_count)
        await _drain(server, streams, settings.drain_grace_s)


async def _drain(server: GrpcServer, streams: StreamRegistry, grace_s: float) -> None:
    """Let open streams go on for a while, then end them, so that each caller gets a reason."""
    await server.not_serving()
    try:
        async with asyncio.timeout(grace_s):
            await streams.wait_until_idle()
    except TimeoutError:
        streams.stop_all()
    await server.stop(LAST_WORDS_S)
    streams.stop_all()  # what was let in meanwhile, and goes on without a reader


def _require_a_key(providers: Mapping[str, ProviderConfig], environ: Mapping[str, str]) -> None:
    if any(not p.api_key_env or environ.get(p.api_key_env, "").strip() for p in providers.values()):
        return
    names = sorted({p.api_key_env for p in providers.values()})
    raise ConfigError(
        f"no provider can be used: set {' or '.join(names)}, configure a provider that needs no key, "
        "or try --demo"
    )


def _require_targets(
    models: Mapping[str, ModelConfig], providers: Mapping[str, ProviderConfig]
) -> None:
    for name, model in models.items():
        target = model.target or name
        provider, _, rest = target.partition("/")
        if provider not in providers or not rest:
            raise ConfigError(
                f"models.{name}: {target!r} is not provider/model of one of {', '.join(providers)}"
            )


def stop_on_signals() -> asyncio.Event:
    """An event that SIGTERM and SIGINT set. A second one ends the process at once."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def on_signal(number: int) -> None:
        stop.set()
        loop.remove_signal_handler(number)
        signal.signal(number, signal.SIG_DFL)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number)
    return stop
