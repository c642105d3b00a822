"""The manifests of deploy/kubernetes: they are valid, and agree with each other and with the server."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from prometheus_series import known_series

from server_process import completed
from tokenwire_edge.settings import Settings as EdgeSettings
from tokenwire_server.config import load

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "kubernetes"
FILES = sorted(FOLDER.rglob("*.yaml"))
VERSIONS = ("1.29", "1.37")
"""The manifests are valid for the versions from the first to the second."""
MEBIBYTE = 2**20
BASE_MEMORY = 512 * MEBIBYTE
"""What a server needs without its logs and its cache, with room for open calls."""


def documents():
    return [found for path in FILES for found in yaml.safe_load_all(path.read_text())]


def named(kind, name="tokenwire"):
    (found,) = [
        each for each in documents() if (each["kind"], each["metadata"]["name"]) == (kind, name)
    ]
    return found


def pod(name="tokenwire"):
    return named("Deployment", name)["spec"]["template"]["spec"]


def container(name="tokenwire"):
    (found,) = pod(name)["containers"]
    return found


def pre_stop_s(name):
    program, duration = container(name)["lifecycle"]["preStop"]["exec"]["command"]
    assert program == "sleep"
    return int(duration)


def size(quantity):
    return int(quantity[:-2]) * {"Mi": MEBIBYTE, "Gi": 1024 * MEBIBYTE}[quantity[-2:]]


@pytest.fixture
def configuration(tmp_path):
    """The path of the file that the server gets from the ConfigMap."""
    path = tmp_path / "tokenwire.toml"
    path.write_text(named("ConfigMap")["data"]["tokenwire.toml"])
    return path


@pytest.mark.parametrize("version", VERSIONS)
def test_the_manifests_are_valid(version):
    words = ["-m", "kubernetes_validate", "--strict", "--quiet", "-k", version, *FILES]
    result = subprocess.run([sys.executable, *words], capture_output=True, text=True, timeout=60)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_a_pod_is_not_killed_before_its_drain_has_ended(configuration):
    settings = load(configuration, {}, {})
    drain_s = settings.drain_accept_s + settings.drain_grace_s + 2
    assert pod()["terminationGracePeriodSeconds"] > pre_stop_s("tokenwire") + drain_s
    drain_s = EdgeSettings().drain_grace_s + 4
    assert (
        pod("tokenwire-edge")["terminationGracePeriodSeconds"]
        > pre_stop_s("tokenwire-edge") + drain_s
    )


def test_new_chats_are_accepted_until_the_readiness_probe_has_failed(configuration):
    probe = container()["readinessProbe"]
    until_removed_s = probe["periodSeconds"] * probe["failureThreshold"]
    accepts_s = load(configuration, {}, {}).drain_accept_s
    assert pre_stop_s("tokenwire") + accepts_s >= until_removed_s


def test_the_server_of_the_deployment_answers_its_probes(start, configuration):
    program, *words = container()["args"]
    assert program == "tokenwire-server"
    (mount,) = [each for each in container()["volumeMounts"] if each["name"] == "config"]
    path = f"{mount['mountPath']}/tokenwire.toml"
    assert path in words
    words = [str(configuration) if word == path else word for word in words]
    listens = {
        "TOKENWIRE_LISTEN": "127.0.0.1:0",
        "TOKENWIRE_METRICS_LISTEN": "127.0.0.1:0",
        "TOKENWIRE_DRAIN_GRACE_S": "0",
    }
    env = {variable["name"]: "key" for variable in container()["env"]}
    with start(*words, env={**env, "TOKENWIRE_DATABASE": None, **listens}) as (_, address):
        for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
            service = container()[kind]["grpc"].get("service", "")
            assert not completed("health", "--target", address, "--service", service).returncode


def test_the_ports_are_those_on_which_the_servers_listen(configuration):
    settings = load(configuration, {}, {})
    ports = {port["name"]: str(port["containerPort"]) for port in container()["ports"]}
    assert ports == {
        "grpc": settings.listen.rpartition(":")[2],
        "metrics": settings.metrics_listen.rpartition(":")[2],
    }
    assert {
        container()[f"{kind}Probe"]["grpc"]["port"] for kind in ("startup", "readiness", "liveness")
    } == {int(ports["grpc"])}
    annotations = named("Deployment")["spec"]["template"]["metadata"]["annotations"]
    assert annotations["prometheus.io/port"] == ports["metrics"]
    (port,) = named("Service")["spec"]["ports"]
    assert (port["targetPort"], str(port["port"])) == ("grpc", ports["grpc"])
    allowed = {
        port["port"] for rule in named("NetworkPolicy")["spec"]["ingress"] for port in rule["ports"]
    }
    assert allowed == ports.keys()
    (port,) = container("tokenwire-edge")["ports"]
    assert str(port["containerPort"]) == EdgeSettings().listen.rpartition(":")[2]
    env = {each["name"]: each.get("value") for each in container("tokenwire-edge")["env"]}
    assert env["TOKENWIRE_EDGE_TARGET"] == f"{named('Service')['metadata']['name']}:{ports['grpc']}"


def test_the_memory_of_a_pod_is_enough_for_the_servers_limits(configuration):
    limits = load(configuration, {}, {}).limits
    needed = limits.max_total_log_bytes + limits.max_cache_bytes + BASE_MEMORY
    assert size(container()["resources"]["limits"]["memory"]) > needed


def test_callers_need_keys(configuration):
    assert load(configuration, {}, {}).auth == "keys"


@pytest.mark.parametrize("name", ["tokenwire", "tokenwire-edge"])
def test_pods_have_no_rights_that_they_do_not_need(name):
    assert not pod(name)["enableServiceLinks"]
    assert not pod(name)["automountServiceAccountToken"]
    security = pod(name)["securityContext"]
    assert security["runAsNonRoot"]
    assert security["seccompProfile"] == {"type": "RuntimeDefault"}
    containerfile = (ROOT / "deploy" / "container" / "Containerfile").read_text()
    assert f"USER {security['runAsUser']}:{security['runAsGroup']}" in containerfile
    assert container(name)["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def test_labels_volumes_and_keys_of_the_secret_exist():
    secret = named("Secret")["stringData"]
    for name in ("tokenwire", "tokenwire-edge"):
        deployment = named("Deployment", name)["spec"]
        labels = deployment["template"]["metadata"]["labels"]
        assert deployment["selector"]["matchLabels"] == labels
        assert named("Service", name)["spec"]["selector"] == labels
        mounted = {mount["name"] for mount in container(name)["volumeMounts"]}
        assert mounted == {volume["name"] for volume in pod(name)["volumes"]}
        for variable in container(name)["env"]:
            if "valueFrom" in variable:
                reference = variable["valueFrom"]["secretKeyRef"]
                assert reference["name"] == named("Secret")["metadata"]["name"]
                assert reference.get("optional") or reference["key"] in secret
    labels = named("Deployment")["spec"]["selector"]["matchLabels"]
    assert named("PodDisruptionBudget")["spec"]["selector"]["matchLabels"] == labels
    assert named("NetworkPolicy")["spec"]["podSelector"]["matchLabels"] == labels


def test_an_autoscaler_adds_pods_before_a_server_refuses_chats(configuration):
    scaler = named("HorizontalPodAutoscaler")["spec"]
    assert scaler["scaleTargetRef"]["name"] == named("Deployment")["metadata"]["name"]
    (metric,) = scaler["metrics"]
    assert metric["pods"]["metric"]["name"] in known_series()
    limits = load(configuration, {}, {}).limits
    assert int(metric["pods"]["target"]["averageValue"]) < limits.max_streams / 2


def test_what_is_optional_is_not_applied_with_the_folder():
    applied = [yaml.safe_load(path.read_text())["kind"] for path in FOLDER.glob("*.yaml")]
    assert not {"Secret", "HorizontalPodAutoscaler"} & set(applied)
