"""The files of deploy/compose: they are valid, agree with each other, and the services that they describe work."""

import json
import re
import subprocess
import sys
import urllib.request
from pathlib import Path

import yaml
from edge_process import running_edge

from programs import required_program
from server_process import completed
from tokenwire_edge.settings import Settings as EdgeSettings
from tokenwire_server.config import load

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "compose"
COMPOSE = FOLDER / "compose.yaml"
VARIABLES = {"POSTGRES_PASSWORD": "secret", "EDGE_TICKET_SECRET": "s" * 32, "OPENAI_API_KEY": "key"}
INTERPOLATED = re.compile(r"\$\{(\w+)(?::-([^}]*)|:\?[^}]*)\}")


def services():
    """Return the services, with the values of VARIABLES, and an empty text for others."""
    text = INTERPOLATED.sub(
        lambda match: VARIABLES.get(match[1], match[2] or ""), COMPOSE.read_text()
    )
    return yaml.safe_load(text)["services"]


def mounts(service):
    """Return the files and folders that a service gets from this repository, by their paths in it."""
    pairs = [volume.split(":")[:2] for volume in services()[service].get("volumes", ())]
    return {inside: FOLDER / outside for outside, inside in pairs if outside.startswith(".")}


def settings_of_the_server():
    (path,) = mounts("server").values()
    return load(path, {}, {})


def port(address):
    return address.rpartition(":")[2]


def seconds(duration):
    return int(duration.removesuffix("s"))


def test_the_compose_file_follows_the_specification():
    words = ["-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", COMPOSE]
    result = subprocess.run([sys.executable, *words], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_services_of_the_compose_file_answer_a_chat(start, simulator, postgresql):
    server, edge = services()["server"], services()["edge"]
    ((config, tokenwire_toml),) = mounts("server").items()
    database = postgresql.new_database()
    assert re.sub("@.*/", "@", server["environment"]["TOKENWIRE_DATABASE"]) == (
        f"postgresql://tokenwire:{VARIABLES['POSTGRES_PASSWORD']}@tokenwire"
    )
    env = server["environment"] | {
        "TOKENWIRE_DATABASE": database,
        "TOKENWIRE_LISTEN": "127.0.0.1:0",
        "TOKENWIRE_METRICS_LISTEN": "127.0.0.1:0",
        "TOKENWIRE_DRAIN_GRACE_S": "0",
        "OPENAI_BASE_URL": f"{simulator.url}/v1",
    }
    program, *words = [
        str(tokenwire_toml) if word == config else word for word in server["command"]
    ]
    assert program == "tokenwire-server"
    # Before the start, because a server that runs reads new keys only once a second.
    create = completed("keys", "create", "--tenant", "acme", env={"TOKENWIRE_DATABASE": database})
    assert create.returncode == 0, create.stderr
    with start(*words, env=env) as (_, address):
        assert edge["command"] == ["tokenwire-edge", "serve"]
        with running_edge(env=edge["environment"] | {"TOKENWIRE_EDGE_TARGET": address}) as (_, url):
            headers = {
                "Authorization": f"Bearer {create.stdout.strip()}",
                "Content-Type": "application/json",
            }
            body = json.dumps({"model": "openai/sim?tokens=5", "prompt": "hello"}).encode()
            request = urllib.request.Request(f"{url}/v1/chat", body, headers)
            with urllib.request.urlopen(request, timeout=60) as answer:
                assert json.load(answer)["finished"]["reason"] == "FINISH_REASON_STOP"


def test_the_health_checks_are_commands_that_exist():
    kind, program, *words = services()["server"]["healthcheck"]["test"]
    assert (kind, program) == ("CMD", "tokenwire-server")
    (config,) = mounts("server").values()
    *options, _ = words
    refused = completed(*options, config, "--target", "127.0.0.1:1", "--timeout", "1")
    assert "127.0.0.1:1: UNAVAILABLE" in refused.stderr


def test_the_ports_are_those_on_which_the_services_listen():
    server, edge = services()["server"], services()["edge"]
    settings = settings_of_the_server()
    listen = EdgeSettings().listen
    assert [port(each) for each in server["ports"]] == [port(settings.listen)]
    assert [port(each) for each in edge["ports"]] == [port(listen)]
    assert edge["environment"]["TOKENWIRE_EDGE_TARGET"] == f"server:{port(settings.listen)}"
    assert all(
        each.startswith("127.0.0.1:")
        for service in services().values()
        for each in service.get("ports", ())
    )


def test_a_server_is_not_killed_before_its_drain_has_ended():
    settings = settings_of_the_server()
    assert seconds(services()["server"]["stop_grace_period"]) > settings.drain_grace_s + 2
    assert seconds(services()["edge"]["stop_grace_period"]) > EdgeSettings().drain_grace_s + 4


def test_files_build_targets_and_variables_exist():
    targets = re.findall(
        r"^FROM \S+ AS (\w+)$", (ROOT / "deploy/container/Containerfile").read_text(), re.MULTILINE
    )
    for name, service in services().items():
        assert all(path.exists() for path in mounts(name).values())
        if "build" in service:
            assert (FOLDER / service["build"]["context"]).resolve() == ROOT
            assert (ROOT / service["build"]["dockerfile"]).exists()
            assert service["build"]["target"] in targets
            assert service["image"] == f"tokenwire-{service['build']['target']}"
    example = re.findall(r"^(\w+)=", (FOLDER / "example.env").read_text(), re.MULTILINE)
    assert set(example) == {name for name, _ in INTERPOLATED.findall(COMPOSE.read_text())}


def test_prometheus_scrapes_the_metrics_of_the_server():
    path = mounts("prometheus")["/etc/prometheus/prometheus.yml"]
    promtool = required_program("promtool")
    result = subprocess.run([promtool, "check", "config", path], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    configuration = yaml.safe_load(path.read_text())
    (job,) = configuration["scrape_configs"]
    assert job["job_name"] == "tokenwire"
    (target,) = job["static_configs"][0]["targets"]
    assert target == f"server:{port(settings_of_the_server().metrics_listen)}"
    for rules in configuration["rule_files"]:
        assert f"/etc/prometheus/{rules}" in mounts("prometheus")


def test_grafana_finds_prometheus_and_the_dashboard():
    provisioning = mounts("grafana")["/etc/grafana/provisioning"]
    ((source,),) = [
        yaml.safe_load(path.read_text())["datasources"]
        for path in (provisioning / "datasources").iterdir()
    ]
    assert source["url"] == f"http://prometheus:{port(services()['prometheus']['ports'][0])}"
    ((provider,),) = [
        yaml.safe_load(path.read_text())["providers"]
        for path in (provisioning / "dashboards").iterdir()
    ]
    dashboard = mounts("grafana")[f"{provider['options']['path']}/tokenwire.json"]
    assert json.loads(dashboard.read_text())["title"] == "Tokenwire"
