"""A real Prometheus that scrapes one server every half second, for tests of PromQL."""

import json
import re
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from contextlib import contextmanager

from programs import required_program

CONFIGURATION = """\
global: {scrape_interval: 500ms, scrape_timeout: 500ms}
scrape_configs:
  - job_name: tokenwire
    static_configs: [{targets: ["%s"]}]
"""
STOP_S = 15


class Prometheus:
    def __init__(self, url):
        self._url = url

    def query(self, expression):
        """Return the result of an expression at this moment: a list of series."""
        query = urllib.parse.urlencode({"query": expression})
        try:
            with urllib.request.urlopen(f"{self._url}/api/v1/query?{query}", timeout=10) as answer:
                return json.load(answer)["data"]["result"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{expression}: {error.read().decode()}") from error


@contextmanager
def prometheus_of(metrics_address, folder):
    """Run Prometheus with its data in `folder`."""
    configuration = folder / "prometheus.yaml"
    configuration.write_text(CONFIGURATION % metrics_address)
    words = [
        required_program("prometheus"),
        f"--config.file={configuration}",
        f"--storage.tsdb.path={folder / 'data'}",
        "--web.listen-address=127.0.0.1:0",
    ]
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as process:
        try:
            logged = ""
            for line in process.stderr:
                logged += line
                listening = re.search(r"Listening on.*address=(\S+:\d+)", logged)
                if listening and "Server is ready" in logged:  # in either order
                    break
            else:
                raise AssertionError(logged)
            yield Prometheus(f"http://{listening[1]}")
        finally:
            process.terminate()
            process.stderr.read()
            process.wait(STOP_S)
