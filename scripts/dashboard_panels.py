"""The panels of the Grafana dashboard, with their PromQL expressions. `dashboard.py` arranges them."""

from __future__ import annotations

from typing import NamedTuple

COLUMNS = 24
"""Width of a dashboard, in Grafana's units."""
MODELS = 'provider=~"$provider", model=~"$model"'
"""The label matchers of the models that are selected."""
OUTPUT = MODELS + ', kind="output"'
REPEATED = MODELS + ', kind!="first"'
FAILED = MODELS + ', outcome="failed"'
BY_MODEL = "{{provider}}/{{model}}"


class Query(NamedTuple):
    """A PromQL expression, and the name of its series."""

    expression: str
    legend: str = "__auto"


class Panel(NamedTuple):
    """A panel. Its width is in units of COLUMNS."""

    title: str
    unit: str
    queries: tuple[Query, ...]
    description: str = ""
    kind: str = "timeseries"
    width: int = 8
    height: int = 8
    is_stacked: bool = False


def rate(counter: str, matchers: str = MODELS) -> str:
    """Return the expression of a counter's increase per second."""
    selected = f"{{{matchers}}}" if matchers else ""
    return f"rate(tokenwire_{counter}_total{selected}[$__rate_interval])"


def quantile(q: float, histogram: str, by: str = "", matchers: str = MODELS) -> str:
    """Return the expression of a quantile of a histogram, by labels such as `provider, model`."""
    buckets = f"rate(tokenwire_{histogram}_seconds_bucket{{{matchers}}}[$__rate_interval])"
    return f"histogram_quantile({q}, sum by ({by + ', ' if by else ''}le) ({buckets}))"


def quantiles(histogram: str) -> tuple[Query, ...]:
    """Return three quantiles of a histogram, over all models that are selected."""
    return tuple(Query(quantile(q, histogram), f"p{q * 100:g}") for q in (0.5, 0.95, 0.99))


def share(part: str, whole: str) -> str:
    """Return the expression of a ratio of two rates, by provider and model."""
    return f"sum by (provider, model) ({part}) / sum by (provider, model) ({whole})"


def stat(title: str, unit: str, expression: str, description: str = "") -> Panel:
    """Return a panel with the latest value of one series."""
    return Panel(title, unit, (Query(expression),), description, "stat", width=4, height=4)


def by_instance(title: str, unit: str, expression: str, description: str = "") -> Panel:
    """Return a panel with a series for each server."""
    return Panel(title, unit, (Query(expression, "{{instance}}"),), description)


RECENT = (
    ("ttft_p50_seconds", "TTFT p50"),
    ("ttft_p95_seconds", "TTFT p95"),
    ("output_tokens_per_second", "Tokens/s"),
    ("error_ratio", "Errors"),
    ("attempts", "Attempts"),
)
"""The columns of the table of recent latencies."""

ROWS: dict[str, tuple[Panel, ...]] = {
    "Overview": (
        stat("Open streams", "short", "sum(tokenwire_streams_open)"),
        stat("Streams that end", "reqps", f"sum({rate('streams')})"),
        stat(
            "Failed streams",
            "percentunit",
            f"(sum({rate('streams', FAILED)}) or vector(0)) / sum({rate('streams')})",
        ),
        stat("Time to first token, p95", "s", quantile(0.95, "time_to_first_token")),
        stat(
            "Output tokens",
            "tokens/s",
            f"sum({rate('tokens', OUTPUT)})",
        ),
        stat("Cost per hour", "currencyUSD", f"3600 * sum({rate('cost_usd')})"),
    ),
    "Streams": (
        Panel(
            "Streams by outcome",
            "reqps",
            (Query(f"sum by (outcome) ({rate('streams')})", "{{outcome}}"),),
            "Streams that ended, per second.",
            is_stacked=True,
        ),
        Panel(
            "Failed streams by reason",
            "reqps",
            (Query(f"sum by (reason) ({rate('streams', FAILED)})", "{{reason}}"),),
            "What callers got after all retries and fallbacks. docs/operations.md says what to do.",
            is_stacked=True,
        ),
        Panel(
            "Cancelled streams by phase",
            "reqps",
            (Query(f"sum by (phase) ({rate('streams_cancelled')})", "{{phase}}"),),
            "How far the provider's answer was when the caller left.",
            is_stacked=True,
        ),
        Panel("Time to first token", "s", quantiles("time_to_first_token")),
        Panel(
            "Time to first token by model, p95",
            "s",
            (Query(quantile(0.95, "time_to_first_token", "provider, model"), BY_MODEL),),
        ),
        Panel(
            "Time to first answer token",
            "s",
            quantiles("time_to_first_answer_token"),
            "Later than the first token if the model reasons first.",
        ),
        Panel("Time per output token", "s", quantiles("time_per_output_token")),
        Panel(
            "Time per output token by model, p95",
            "s",
            (Query(quantile(0.95, "time_per_output_token", "provider, model"), BY_MODEL),),
        ),
        Panel(
            "Response cache",
            "reqps",
            (Query(f"sum by (result) ({rate('cache_requests', '')})", "{{result}}"),),
            "Streams that asked for the response cache.",
            is_stacked=True,
        ),
    ),
    "Tokens and cost": (
        Panel(
            "Output tokens by model",
            "tokens/s",
            (
                Query(
                    f"sum by (provider, model) ({rate('tokens', OUTPUT)})",
                    BY_MODEL,
                ),
            ),
        ),
        Panel(
            "Tokens by kind",
            "tokens/s",
            (Query(f"sum by (kind) ({rate('tokens')})", "{{kind}}"),),
            "input includes both cache kinds, and output includes reasoning.",
        ),
        Panel(
            "Cost per hour by model",
            "currencyUSD",
            (Query(f"3600 * sum by (provider, model) ({rate('cost_usd')})", BY_MODEL),),
            "At the rate of the moment, of streams whose price is known.",
            is_stacked=True,
        ),
    ),
    "Providers and limits": (
        Panel(
            "Last 15 minutes",
            "none",
            tuple(
                Query(f"max by (provider, model) (tokenwire_recent_{name}{{{MODELS}}})")
                for name, _ in RECENT
            ),
            "The live latency of the models. With several servers, the highest value of them.",
            "table",
            width=COLUMNS,
        ),
        Panel(
            "Upstream errors by reason",
            "reqps",
            (
                Query(
                    f"sum by (provider, reason) ({rate('upstream_errors')})",
                    "{{provider}} {{reason}}",
                ),
            ),
            "Requests to providers that failed, also if a retry or a fallback succeeded.",
            is_stacked=True,
        ),
        Panel(
            "Upstream errors by model",
            "percentunit",
            (
                Query(
                    share(rate("upstream_errors"), rate("upstream_attempts")),
                    BY_MODEL,
                ),
            ),
            "Share of the requests to providers that failed.",
        ),
        Panel(
            "Retries and fallbacks",
            "reqps",
            (
                Query(
                    f"sum by (provider, kind) ({rate('upstream_attempts', REPEATED)})",
                    "{{provider}} {{kind}}",
                ),
            ),
            "Requests to providers after the first one of a stream.",
            is_stacked=True,
        ),
        Panel(
            "Circuit breakers",
            "short",
            (
                Query(
                    f"max by (provider, model) (tokenwire_breaker_state{{{MODELS}}})",
                    BY_MODEL,
                ),
            ),
            "0: closed, 1: half-open, 2: open, 3: cooldown.",
        ),
        Panel(
            "Connections by provider",
            "short",
            (
                Query(
                    'sum by (provider) (tokenwire_upstream_connections{provider=~"$provider"})',
                    "{{provider}}",
                ),
            ),
            "Requests that are open at a provider.",
        ),
        Panel(
            "Limits reached",
            "reqps",
            (Query(f"sum by (limit) ({rate('limits_reached', '')})", "{{limit}}"),),
            "Limits of the server that ended requests or calls. docs/limits.md lists them.",
            is_stacked=True,
        ),
        Panel(
            "Refused calls by reason",
            "reqps",
            (
                Query(
                    f"sum by (method, reason) ({rate('calls_refused', '')})",
                    "{{method}} {{reason}}",
                ),
            ),
            "Calls that ended with an error which is not the end of a stream.",
            is_stacked=True,
        ),
    ),
    "Servers": (
        by_instance(
            "Event loop lag, p99",
            "s",
            quantile(0.99, "event_loop_lag", "instance", 'job="tokenwire"'),
            "How late tokens are because the server is busy.",
        ),
        Panel(
            "Open streams",
            "short",
            (
                Query("sum by (instance) (tokenwire_streams_open)", "{{instance}}"),
                Query(
                    "min by (instance) (tokenwire_overload_chat_limit) < Inf", "{{instance}} limit"
                ),
            ),
            "During an overload, also the number of chats that may be open.",
        ),
        by_instance("Readers", "short", "sum by (instance) (tokenwire_readers)"),
        by_instance(
            "Log memory",
            "bytes",
            "sum by (instance) (tokenwire_log_bytes)",
            "Content of streams that can be read. max_total_log_bytes limits it.",
        ),
        by_instance(
            "Ledger queue",
            "short",
            "sum by (instance) (tokenwire_ledger_queue)",
            "Usage records that wait for the database.",
        ),
        Panel(
            "Lost records and spans",
            "short",
            (
                Query(
                    "sum by (instance) (increase(tokenwire_ledger_drops_total[$__rate_interval]))",
                    "{{instance}} usage records",
                ),
                Query(
                    "sum by (instance) (increase(tokenwire_spans_dropped_total[$__rate_interval]))",
                    "{{instance}} spans",
                ),
            ),
            "Must be 0.",
        ),
        by_instance(
            "CPU",
            "percentunit",
            "sum by (instance) (rate("
            'process_cpu_seconds_total{job="tokenwire"}[$__rate_interval]))',
            "A server uses one core: 100 % is its maximum.",
        ),
        by_instance(
            "Memory",
            "bytes",
            'sum by (instance) (process_resident_memory_bytes{job="tokenwire"})',
        ),
        by_instance(
            "Open files",
            "percentunit",
            'sum by (instance) (process_open_fds{job="tokenwire"})'
            ' / sum by (instance) (process_max_fds{job="tokenwire"})',
        ),
        Panel(
            "Reloads of the configuration",
            "short",
            (
                Query(
                    "sum by (instance, result) (increase("
                    "tokenwire_config_reloads_total[$__rate_interval]))",
                    "{{instance}} {{result}}",
                ),
            ),
        ),
        Panel(
            "Versions",
            "short",
            (
                Query(
                    "sum by (version, python) (tokenwire_build_info)",
                    "{{version}}, Python {{python}}",
                ),
            ),
            "Servers of each version.",
            is_stacked=True,
        ),
    ),
}
