"""The labels of the metrics."""

from tokenwire_server.telemetry.labels import OTHER
from tokenwire_server.telemetry.metrics import MAX_MODELS, MAX_TENANT_MODELS, Metrics


def test_a_thousand_invented_models_get_no_more_labels_than_the_maximum():
    metrics = Metrics(["openai/configured"])
    for number in range(1000):
        metrics.add_model("openai", f"invented-{number}")
    labels = {metrics.target("openai", f"invented-{number}") for number in range(1000)}
    assert len(labels) == MAX_MODELS + 1
    assert ("openai", OTHER) in labels
    assert metrics.target("openai", "configured") == ("openai", "configured")
    assert metrics.target("anthropic", "configured") == ("anthropic", OTHER)


def test_tenants_have_labels_only_if_the_operator_wants_them_and_then_with_a_bound():
    assert Metrics().tenant("acme", ("openai", "m")) == ()
    metrics = Metrics(has_tenant_label=True)
    labels = {
        (tenant, model, metrics.tenant(f"tenant-{tenant}", ("openai", f"model-{model}")))
        for tenant in range(100)
        for model in range(100)
    }
    own = [label for *_, label in labels if label != (OTHER,)]
    assert len(labels) == 10_000
    assert len(own) == MAX_TENANT_MODELS
    assert metrics.tenant("tenant-0", ("openai", "model-0")) == ("tenant-0",)
