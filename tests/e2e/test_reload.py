"""SIGHUP: which settings a real server takes from its changed configuration, and when it refuses them."""

import asyncio
import errno
import os
import signal
import time
from contextlib import contextmanager

import grpc
import grpc.aio
import pytest
from e2e_calls import reason, resume, said, usage_records
from test_metrics import Scrape, url_of

from tokenwire.v1 import caller_pb2, caller_pb2_grpc, chat_pb2, event_pb2, model_pb2

RELOADED = "the configuration was reloaded"
REFUSED = "the configuration was not reloaded"
LIMIT_S = 30.0
"""Time limit for a log line, on a busy machine."""
FOREVER = "repeat=forever&itl_ms=10"


class Configured:
    """A server process with a configuration file that the test changes."""

    def __init__(self, path, process, address):
        self.path = path
        self.process = process
        self.address = address

    def write(self, text):
        self.path.write_text(text)

    def log(self):
        return os.pread(self.process.log.fileno(), 2**20, 0).decode()

    async def until_logged(self, text, count=1):
        """Return the last line of the log that contains a text, once there are `count` of them."""
        began = time.monotonic()
        while len(lines := [line for line in self.log().splitlines() if text in line]) < count:
            assert time.monotonic() - began < LIMIT_S, self.log()
            await asyncio.sleep(0.02)
        return lines[-1]

    async def reload(self, text, expected=RELOADED):
        """Change the file and send SIGHUP. Return the line of the log with the result."""
        count = self.log().count(expected)
        self.write(text)
        self.process.send_signal(signal.SIGHUP)
        return await self.until_logged(expected, count + 1)


@pytest.fixture
def configured(start, simulator, tmp_path):
    """Starts a server with a configuration file: a context manager."""

    @contextmanager
    def run(text, **env):
        path = tmp_path / "tokenwire.toml"
        path.write_text(text)
        command = ("serve", "--listen", "127.0.0.1:0", "--config", str(path))
        with start(*command, env=simulator.environ() | env) as (process, address):
            yield Configured(path, process, address)

    return run


@pytest.fixture
def api_of(api_on):
    """Connects to a server: an async context manager of its API."""

    class Connected:
        def __init__(self, server):
            self._channel = grpc.aio.insecure_channel(server.address)

        async def __aenter__(self):
            return api_on(await self._channel.__aenter__())

        async def __aexit__(self, *error):
            await self._channel.__aexit__(*error)

    return Connected


async def refusal(call):
    """Return the reason of the error of a call."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return reason(caught.value)


def configuration(words, requests, **other):
    """Return a file: an alias that answers with `words` words, and a limit on requests per minute."""
    lines = [f"{name} = {value}" for name, value in other.items()]
    return "\n".join(
        [
            *lines,
            f'models.fast.target = "openai/sim?tokens={words}"',
            f'models.endless.target = "openai/sim?{FOREVER}"',
            f"tenants.default.requests_per_minute = {requests}",
            'providers.local.kind = "openai-chat"',
            'providers.local.base_url = "http://127.0.0.1:9/v1"',
            'providers.local.headers.x-secret = "canary-of-the-configuration"',
        ]
    )


async def test_new_settings_apply_to_new_streams_and_running_ones_are_not_disturbed(
    configured, api_of
):
    async with asyncio.timeout(120):
        with configured(configuration(3, 3)) as server:
            async with api_of(server) as api:
                running = api.chat_stream(api.request("endless"))  # the first request of the minute
                events = aiter(running)
                stream_id = (await anext(events)).started.stream_id
                before = said(await api.events("fast"))

                changed = configuration(5, 2, log_level='"DEBUG"', drain_grace_s=0.5)
                line = await server.reload(
                    changed.replace("models.endless", "models.other")
                    + "\nlimits.max_streams = 7\nusage_kept_days = 40"
                )
                for name in (
                    *("log_level", "drain_grace_s", "models.fast.target", "models.other"),
                    *("models.endless", "tenants.default.requests_per_minute"),
                ):
                    assert name in line
                later = await server.until_logged("take effect after a restart")
                assert "limits.max_streams" in later
                assert "usage_kept_days" in later

                # The two requests of the last minute count for the new limit.
                assert await refusal(api.events("fast")) == "RATE_LIMITED"
                await server.reload(changed.replace("minute = 2", "minute = 100"))
                assert len(said(await api.events("fast"))) > len(before)
                assert await refusal(api.events("endless-")) == "UNKNOWN_MODEL"
                models = await api.list_models(model_pb2.ListModelsRequest())
                assert {"fast", "endless"} <= {model.id for model in models.models}

                # The stream that ran all the time is whole.
                request = chat_pb2.CancelStreamRequest(stream_id=stream_id)
                await api.cancel_stream(request)
                whole = [event async for event in events]
                assert whole[-1].finished.reason == event_pb2.FINISH_REASON_CANCELLED
                replay = [event async for event in resume(api, stream_id)]
                assert said(whole) == said(replay)
            assert "canary-of-the-configuration" not in server.log()


INVALID = {
    "not TOML": ("models.fast = [", "tokenwire.toml"),
    "an unknown setting": ("log_level = 'DEBUG'\nno_such = 1", "no_such"),
    "a wrong value": ("tenants.default.requests_per_minute = -1", "requests_per_minute"),
    "a tenant above the server's limit": (
        "tenants.default.concurrent_streams = 9999999",
        "tenants.default.concurrent_streams",
    ),
    "an unknown provider": ("models.fast.target = 'nobody/x'", "models.fast"),
    "a provider that needs a restart": (
        """
        models.fast.target = 'local/x'
        providers.local = { kind = 'openai-chat', base_url = 'http://127.0.0.1:9' }
        """,
        "new providers can be used after a restart",
    ),
    "a limit that needs a restart": (
        "limits.max_streams = 5000\ntenants.default.concurrent_streams = 4000",
        "tenants.default.concurrent_streams",
    ),
}


async def test_a_wrong_configuration_changes_nothing(configured, api_of):
    right = "models.fast.target = 'openai/sim?tokens=3'"
    async with asyncio.timeout(120):
        with configured(right, TOKENWIRE_METRICS_LISTEN="127.0.0.1:0") as server:
            url = url_of(server.process)
            async with api_of(server) as api:
                for text, fault in INVALID.values():
                    # All of it is refused, although this part is right.
                    line = await server.reload(
                        f"{text}\n[models.new]\ntarget = 'openai/x'", REFUSED
                    )
                    assert fault in line
                    assert said(await api.events("fast"))
                    assert await refusal(api.events("new")) == "UNKNOWN_MODEL"
                server.path.unlink()
                server.process.send_signal(signal.SIGHUP)
                await server.until_logged("no such file")
                before = await asyncio.to_thread(Scrape, url)
                # Two signals in a row: the last file is used.
                server.process.send_signal(signal.SIGHUP)
                await server.reload("models.new.target = 'openai/sim?tokens=3'")
                assert said(await api.events("new"))
                after = await asyncio.to_thread(Scrape, url)
    failures = before.by("config_reloads_total", "result")
    assert set(failures) == {"failure"}
    assert failures["failure"] == len(INVALID) + 1
    assert after.by("config_reloads_total", "result")["success"] >= 1
    name = "config_last_reload_success_timestamp_seconds"
    assert after.value(name) > before.value(name) > time.time() - 600


async def test_a_spend_limit_that_is_added_includes_what_was_spent_before(
    configured, api_of, new_database
):
    """By this server, and before it started without a limit, so that it did not read the records."""
    prices = 'models."openai/sim?tokens=5".prices = { input = 1, output = 5 }\n'
    limit = "tenants.default.spend_usd_per_day = 5\n"
    database = new_database()
    spent = []

    async def spend(api):
        finished = (await api.events("openai/sim?tokens=5"))[-1].finished
        spent.append(finished.usage.cost_microusd)

    async with asyncio.timeout(120):
        with configured(prices, TOKENWIRE_DATABASE=database) as server:
            async with api_of(server) as api:
                await spend(api)
        with configured(prices, TOKENWIRE_DATABASE=database) as server:
            async with grpc.aio.insecure_channel(server.address) as channel, api_of(server) as api:
                get_caller = caller_pb2_grpc.CallerServiceStub(channel).GetCaller
                await spend(api)
                # This record is in the database now, and must not count twice.
                while len(await usage_records(channel)) < len(spent):
                    await asyncio.sleep(0.05)
                for text in (prices + limit, prices, prices + limit):
                    await server.reload(text)
                    await spend(api)
                caller = await get_caller(caller_pb2.GetCallerRequest())
    assert all(spent)
    assert [found.remaining for found in caller.allowances] == [5 * 10**6 - sum(spent)]


async def test_a_reload_is_ignored_while_the_server_stops(configured, api_of):
    async with asyncio.timeout(120):
        with configured("drain_grace_s = 60") as server:
            async with api_of(server) as api:
                call = api.chat_stream(api.request(f"openai/sim?{FOREVER}"))
                await anext(aiter(call))
                server.process.send_signal(signal.SIGTERM)
                await server.until_logged("draining:")
                server.write("drain_grace_s = 1")
                server.process.send_signal(signal.SIGHUP)
                await server.until_logged("SIGHUP is ignored")
                call.cancel()
                assert await asyncio.to_thread(server.process.wait, 30) == 0
            assert RELOADED not in server.log()


async def open_for_writing(fifo):
    """Open a FIFO once a process waits to read from it."""
    while True:
        try:
            return os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            await asyncio.sleep(0.02)


async def test_a_file_system_that_hangs_blocks_one_thread_and_not_the_end(configured, api_of):
    async with asyncio.timeout(120):
        with configured("") as server:
            server.path.unlink()
            os.mkfifo(server.path)
            server.process.send_signal(signal.SIGHUP)
            writer = await open_for_writing(server.path)  # and write nothing
            await server.until_logged("could not be read within")
            server.process.send_signal(signal.SIGHUP)
            await server.until_logged("an earlier SIGHUP started has not ended")
            async with api_of(server) as api:
                assert said(await api.events("openai/sim?tokens=3"))

            os.close(writer)
            server.path.unlink()
            while True:  # the read ends a moment after the FIFO is closed
                line = await server.reload("log_level = 'DEBUG'", "the configuration was ")
                if RELOADED in line:
                    break

            server.path.unlink()
            os.mkfifo(server.path)
            server.process.send_signal(signal.SIGHUP)
            writer = await open_for_writing(server.path)
            server.process.send_signal(signal.SIGTERM)
            assert await asyncio.to_thread(server.process.wait, 60) == 0
            os.close(writer)
