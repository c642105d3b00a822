"""Two servers that share streams: the delay of readers at the other server, and its connections to Redis."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import redis
from jobs import RemoteReadersResult, Target
from measure import PROVIDER_PREFIX
from plan import MAX_REDIS_CONNECTIONS, REMOTE_P50_LIMIT_MS, REMOTE_P99_LIMIT_MS, Bar, Plan
from processes import Processes


class Replicas(msgspec.Struct, frozen=True):
    remote: RemoteReadersResult
    connections: int
    """Connections to Redis of the server that has more of them."""

    @property
    def bars(self) -> list[Bar]:
        """Return each bar with its figure."""
        what = f"{self.remote.readers:,} readers at another server"
        return [
            Bar(
                "remote_added_p50_ms",
                f"{what}: added delay p50",
                self.remote.added_p50_ms,
                REMOTE_P50_LIMIT_MS,
                "ms",
            ),
            Bar(
                "remote_added_p99_ms",
                f"{what}: added delay p99",
                self.remote.added_p99_ms,
                REMOTE_P99_LIMIT_MS,
                "ms",
            ),
            Bar(
                "redis_connections",
                f"{what}: Redis connections of a server",
                self.connections,
                MAX_REDIS_CONNECTIONS,
                "",
            ),
        ]


def replicas(plan: Plan, processes: Processes, say: Callable[[str], None]) -> Replicas:
    """Measure readers at another server. Raises Unmeasurable if something fails."""
    with processes.simulator() as simulator, processes.redis() as store:
        settings = {"TOKENWIRE_REDIS__URL": f"redis://{store.address}"}
        with (
            processes.server(simulator, name="owner", settings=settings) as owner,
            processes.server(simulator, name="other", settings=settings) as other,
        ):
            job = msgspec.structs.replace(
                plan.remote,
                owner=Target(owner.address, "grpc", PROVIDER_PREFIX),
                other=Target(other.address, "grpc", PROVIDER_PREFIX),
            )
            say(f"{job.streams} streams, {job.readers_per_stream} remote readers of each")
            remote = processes.run(job, RemoteReadersResult)
            port = int(store.address.rpartition(":")[2])
            with redis.Redis(port=port) as client:
                names = [each["name"] for each in client.client_list()]
    connections = max(names.count(f"tokenwire-{each.pid}") for each in (owner, other))
    return Replicas(remote, connections)
