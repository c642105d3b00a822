"""The alerts of deploy/prometheus: they are valid, each can fire, and they use metrics that exist."""

import re
import subprocess
from pathlib import Path

import yaml
from prometheus_series import known_series, unknown_names

from programs import required_program
from tokenwire.v1 import error_pb2

ROOT = Path(__file__).parents[2]
ALERTS = ROOT / "deploy" / "prometheus" / "alerts.yaml"
CASES = Path(__file__).with_name("alerts.test.yaml")


def rules():
    (group,) = yaml.safe_load(ALERTS.read_text())["groups"]
    return group["rules"]


def cases():
    return yaml.safe_load(CASES.read_text())["tests"]


def test_promtool_accepts_the_rules_and_each_case_passes():
    promtool = required_program("promtool")
    for words in (("check", "rules", ALERTS), ("test", "rules", CASES)):
        result = subprocess.run([promtool, *words], capture_output=True, text=True, timeout=60)
        assert result.returncode == 0, result.stdout + result.stderr


def test_each_alert_has_a_case_in_which_it_fires_and_one_in_which_it_does_not():
    fires, is_silent = set(), set()
    for case in cases():
        for check in case["alert_rule_test"]:
            (fires if check["exp_alerts"] else is_silent).add(check["alertname"])
    assert {rule["alert"] for rule in rules()} == fires == is_silent


def test_the_alerts_and_their_cases_use_series_labels_and_reasons_that_exist():
    series = known_series()
    inputs = [each["series"] for case in cases() for each in case["input_series"]]
    for text in (*(rule["expr"] for rule in rules()), *inputs):
        assert not unknown_names(text, series), text
        for matched in re.findall(r'reason\s*(?:=~|!~|=)\s*"([A-Z_|]+)"', text):
            reasons = set(matched.split("|")) - {"STOP"}
            assert {f"ERROR_REASON_{reason}" for reason in reasons} <= set(
                error_pb2.ErrorReason.keys()
            )


def test_each_alert_has_a_severity_and_a_summary():
    for rule in rules():
        assert rule["labels"]["severity"] in ("page", "ticket")
        assert rule["annotations"]["summary"]
