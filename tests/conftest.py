"""A real server and a real simulator, each a process of its own, shared by the tests of a worker."""

import atexit
import gc
import json
import os
import signal
import sys
import time
import urllib.request
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import grpc.aio
import pytest
from hypothesis import HealthCheck, settings

from databases import database_url, own_postgresql, postgresql, sql  # noqa: F401  # fixtures
from examples import USUAL_EXAMPLES
from redis_servers import (  # noqa: F401  # fixtures
    own_redis,
    own_redis_cluster,
    redis_cluster,
    redis_server,
)
from server_process import forkserver_address, join_forkserver, running
from tokenwire.v1 import chat_pb2, event_pb2, model_pb2

os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # it logs each connection that a test breaks
# No test calls a public server, and each server and SDK would take 40 ms of CPU to load the system's certificates,
# which some machines name in this variable.
os.environ["SSL_CERT_FILE"] = str(Path(__file__).with_name("authority.pem"))

# Before a server in this process could install its workaround for slow wake-ups: that is made for a process
# with one event loop. Where a test leaves a call to a loop that is closed, it can lose wake-ups of later tests.
grpc.aio.init_grpc_aio()

for name, examples in {
    "fast": USUAL_EXAMPLES // 10,
    "usual": USUAL_EXAMPLES,
    "soak": 5 * USUAL_EXAMPLES,
}.items():
    settings.register_profile(
        name,
        max_examples=examples,
        # Limits of the wall-clock time of an example and of its generation fail on a busy machine.
        deadline=None,
        # Fixtures are created once for all examples of a test on purpose.
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
    )
settings.load_profile("usual")


class SimulatorProcess:
    """What a test asks the simulator."""

    def __init__(self, address):
        self.url = f"http://{address}"

    def _get(self, path):
        with urllib.request.urlopen(f"{self.url}{path}", timeout=5) as answer:
            return json.load(answer)

    def stats(self):
        return self._get("/simulator/stats")

    def request(self, key):
        """What it knows of the last request with that key; its `body` as JSON."""
        seen = self._get(f"/simulator/requests/{key}")
        return seen | {"body": json.loads(seen["body"])}

    def wait_until_none_open(self, within_s):
        """Poll until no request is open; return how long it took. Fails past `within_s`."""
        began = time.monotonic()
        while (stats := self.stats())["requests_open"]:
            assert time.monotonic() - began < within_s, f"still open: {stats}"
            time.sleep(0.005)
        return time.monotonic() - began

    def environ(self):
        return {
            "OPENAI_API_KEY": "key-of-openai",
            "ANTHROPIC_API_KEY": "key-of-anthropic",
            "OPENAI_BASE_URL": f"{self.url}/v1",
            "ANTHROPIC_BASE_URL": self.url,
            # Errors that are retried reach the caller as soon as others.
            "TOKENWIRE_RETRIES__BASE_S": "0.01",
            "TOKENWIRE_RETRIES__CAP_S": "0.02",
        }


@pytest.fixture
def interruptible():
    """Restore SIGINT: processes started in the background ignore it, and their children inherit that."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session")
def start():
    """Starts another `tokenwire-server`: a context manager."""
    return running


@contextmanager
def running_simulator():
    with running("simulate", "--listen", "127.0.0.1:0") as (_, address):
        yield SimulatorProcess(address)


@pytest.fixture(scope="session")
def simulator():
    with running_simulator() as simulator:
        yield simulator


@pytest.fixture(scope="session")
def own_simulator():
    """Starts another simulator that no other test uses: a context manager."""
    return running_simulator


@pytest.fixture(scope="session")
def server(simulator):
    """Address of a server whose providers are the simulator."""
    with running("serve", "--listen", "127.0.0.1:0", env=simulator.environ()) as (_, address):
        yield address


@pytest.fixture
async def channel(server):
    async with grpc.aio.insecure_channel(server) as channel:
        yield channel


def chat_request(model, prompt="hello", **fields):
    fields.setdefault(
        "messages",
        [chat_pb2.Message(role=chat_pb2.ROLE_USER, parts=[chat_pb2.Part(text=prompt)])],
    )
    return chat_pb2.ChatRequest(model=model, **fields)


class Api:
    """The RPCs on one channel, without any client library of ours."""

    request = staticmethod(chat_request)

    def __init__(self, channel):
        self.chat_stream = channel.unary_stream(
            "/tokenwire.v1.ChatService/ChatStream",
            request_serializer=_serialized,
            response_deserializer=event_pb2.TokenEvent.FromString,
        )
        self.chat = channel.unary_unary(
            "/tokenwire.v1.ChatService/Chat",
            request_serializer=_serialized,
            response_deserializer=chat_pb2.ChatResponse.FromString,
        )
        self.resume_stream = channel.unary_stream(
            "/tokenwire.v1.ChatService/ResumeStream",
            request_serializer=_serialized,
            response_deserializer=event_pb2.TokenEvent.FromString,
        )
        self.get_stream = channel.unary_unary(
            "/tokenwire.v1.ChatService/GetStream",
            request_serializer=_serialized,
            response_deserializer=chat_pb2.StreamInfo.FromString,
        )
        self.cancel_stream = channel.unary_unary(
            "/tokenwire.v1.ChatService/CancelStream",
            request_serializer=_serialized,
            response_deserializer=chat_pb2.CancelStreamResponse.FromString,
        )
        self.delete_stream = channel.unary_unary(
            "/tokenwire.v1.ChatService/DeleteStream",
            request_serializer=_serialized,
            response_deserializer=chat_pb2.DeleteStreamResponse.FromString,
        )
        self.list_models = channel.unary_unary(
            "/tokenwire.v1.ModelService/ListModels",
            request_serializer=_serialized,
            response_deserializer=model_pb2.ListModelsResponse.FromString,
        )
        self.get_model = channel.unary_unary(
            "/tokenwire.v1.ModelService/GetModel",
            request_serializer=_serialized,
            response_deserializer=model_pb2.Model.FromString,
        )

    async def events(self, model, prompt="hello", **fields):
        return [event async for event in self.chat_stream(chat_request(model, prompt, **fields))]


@pytest.fixture
def api(channel):
    return Api(channel)


@pytest.fixture(scope="session")
def api_on():
    """Makes an Api of a channel that the test opened itself."""
    return Api


def _serialized(message):
    return message if isinstance(message, bytes) else message.SerializeToString()


PROCESS_FIXTURES = {
    "command_line",
    "own_postgresql",
    "own_redis",
    "own_redis_cluster",
    "own_simulator",
    "postgresql",
    "redis_cluster",
    "redis_server",
    "simulator",
    "start",
}


TESTS = Path(__file__).parent
SLOW_FILES = {
    "packaging/test_docs.py": 0,
    "packaging/test_extras.py": 0,
    "e2e/test_lost_records.py": 1,
    "e2e/test_reload.py": 1,
    "e2e/test_demo_tools.py": 2,
    "e2e/test_workers.py": 2,
    "bench/test_bench.py": 3,
    "edge/test_cut_wire.py": 4,
    "edge/test_browser_client.py": 4,
    "histories/test_replica_histories.py": 4,
    "histories/test_stream_machine.py": 5,
    "faults/test_abandoned.py": 5,
    "faults/test_memory.py": 5,
    "e2e/test_replicas.py": 5,
    "e2e/test_spend.py": 5,
}
"""Files with tests that take long, and the worker that starts with them. At the end they would run alone."""


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node):
    """Let the workers of xdist fork servers from one process, so that it is imported once."""
    options = node.config.option
    is_whole = node.config.args_source is pytest.Config.ArgsSource.TESTPATHS
    node.workerinput["runs_all"] = is_whole and not (options.ignore or options.ignore_glob)
    if "process" not in node.config.option.markexpr:
        node.workerinput["forkserver"] = forkserver_address()


def pytest_configure(config):
    """Use the process that all workers share."""
    if address := getattr(config, "workerinput", {}).get("forkserver"):
        join_forkserver(address)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session):
    """Note that all tests have run."""
    session.config.has_finished = True


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config):
    """End a worker without freeing all objects, which takes seconds when all workers do it at once."""
    if hasattr(config, "workerinput") and getattr(config, "has_finished", False):
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


@pytest.hookimpl(wrapper=True)
def pytest_collection_modifyitems(items):
    """Mark the tests that start a process, as their fixtures show, and let slow files start first."""
    for item in items:
        parameters = item.callspec.params if hasattr(item, "callspec") else {}
        named = {each for each in parameters.values() if isinstance(each, str)}
        if PROCESS_FIXTURES & {*item.fixturenames, *named}:
            item.add_marker("process")
    if items and _runs_all(items[0].config):
        items.sort(key=lambda item: item.path)  # all workers need the same order
    yield  # some are deselected
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    slow = [item for item in items if _name(item) in SLOW_FILES]
    others = iter([item for item in items if _name(item) not in SLOW_FILES])
    ordered = []
    for worker in range(workers):  # xdist gives each worker one part of the list
        share = (len(items) - len(ordered)) // (workers - worker)
        first = [item for item in slow if SLOW_FILES[_name(item)] % workers == worker]
        ordered += [*first, *islice(others, max(0, share - len(first)))]
    items[:] = ordered


def _name(item):
    """Return the path of a test's file, from the folder of all tests."""
    return item.path.relative_to(TESTS).as_posix()


GC_THRESHOLDS = (700, 10, 100)
"""As Python has them, but all objects are visited ten times less often: with 10, that is 5% of the CPU time."""


def pytest_collection(session):
    """Do not collect garbage while modules are imported and tests are made: almost all of that stays.

    If all tests are run, each worker begins in another folder. In a new checkout, pytest rewrites the
    assertions of each file, and so most files are rewritten by one worker only.
    """
    gc.disable()
    config = session.config
    if _runs_all(config):
        folders = [folder for part in _parts(TESTS) for folder in _parts(part)]
        number = int(config.workerinput["workerid"].removeprefix("gw"))
        start = len(folders) * number // int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
        config.args = [str(path) for path in folders[start:] + folders[:start]]


def _runs_all(config):
    """Return whether this is a worker of xdist, and whether the workers run all tests."""
    return getattr(config, "workerinput", {}).get("runs_all", False)


def _parts(path):
    """Return the folders and the files of tests in a folder, or a file itself."""
    inside = sorted(path.iterdir()) if path.is_dir() else [path]
    return [each for each in inside if each.is_dir() or each.match("test_*.py")]


def pytest_collection_finish():
    """Exclude what exists by now from garbage collection: tests that look for leaks run it often."""
    gc.freeze()
    gc.enable()
    gc.set_threshold(*GC_THRESHOLDS)
