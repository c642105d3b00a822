"""Real `llama-server` processes with the tiny model, as `scripts/llama_server` built them."""

import json
import re
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

HOME = Path(__file__).parents[2] / ".tools" / "llama"
BINARY = HOME / "build" / "bin" / "llama-server"
MODEL = HOME / "tiny.gguf"
TEMPLATES = HOME / "src" / "models" / "templates"
PLAIN_TEMPLATE = "Qwen-Qwen3-0.6B.jinja"
"""A chat template with tools, where the model decides whether it thinks."""
THINKING_TEMPLATE = "Qwen-QwQ-32B.jinja"
"""A chat template that opens each answer with `<think>`."""
TOOLS_TEMPLATE = "meetkai-functionary-medium-v3.2.jinja"
"""A chat template whose answers are tool calls from the first token on, if one is required. An answer that
has to be text is an error: the random model does not write the header that the template requires."""
WRAPPED_TEMPLATE = "CohereForAI-c4ai-command-r7b-12-2024-tool_use.jinja"
"""A chat template whose answers are between two tags."""
TEXT_THEN_ERROR = "--grammar", 'root ::= "<|START_RESPONSE|>pears<|END_RESPONSE|>s"'
"""Options with which all answers have a text of five tokens, and then one that the template does not allow."""
START_S = 60
STOP_S = 15


class LlamaServer:
    """A server on a port of its own, which it keeps when it is started again. A context manager.

    It computes with one thread and without a prompt cache, so that the same request has the same answer.
    """

    def __init__(self, *, slots=1, context_tokens=8192, template=PLAIN_TEMPLATE, options=()):
        if not BINARY.exists():
            pytest.fail(f"{BINARY} does not exist: run `make real`")
        self._port = _free_port()
        self.url = f"http://127.0.0.1:{self._port}"
        self._argv = [
            BINARY,
            *("--model", MODEL, "--alias", "tiny", "--host", "127.0.0.1", "--port", self._port),
            *("--ctx-size", slots * context_tokens, "--parallel", slots),
            *("--threads", 1, "--threads-batch", 1, "--no-cache-prompt", "--no-warmup"),
            *("--jinja", "--chat-template-file", TEMPLATES / template, "--metrics", "--offline"),
            *options,
        ]

    def __enter__(self):
        self._log = tempfile.TemporaryFile("a+")
        self.start()
        return self

    def __exit__(self, *_):
        self._stop()
        self._log.close()

    def start(self):
        self._process = subprocess.Popen(
            list(map(str, self._argv)), stdout=self._log, stderr=subprocess.STDOUT
        )
        give_up = time.monotonic() + START_S
        while not self._is_ready():
            if self._process.poll() is not None or time.monotonic() > give_up:
                self._stop()
                self._log.seek(0)
                pytest.fail(f"llama-server did not start: {self._log.read()[-3000:]}")
            time.sleep(0.02)

    def kill(self):
        """Kill the process, as a crash would: connections break without a last message."""
        self._process.kill()
        self._process.wait()

    def is_idle(self):
        return not self.metric("requests_processing") and not self.metric("requests_deferred")

    def metric(self, name):
        """Return a figure of its metrics, such as `requests_processing`."""
        found = re.search(rf"^llamacpp:{name} (\S+)$", self._get("/metrics"), re.MULTILINE)
        return float(found[1])

    def tokens(self, text):
        """Return the token ids of a text."""
        body = json.dumps({"content": text}).encode()
        with urllib.request.urlopen(f"{self.url}/tokenize", body, timeout=5) as answer:
            return json.load(answer)["tokens"]

    def _stop(self):
        if self._process.poll() is None:
            self._process.terminate()
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.kill()
            raise

    def _is_ready(self):
        try:
            return "ok" in self._get("/health")
        except OSError:  # not listening yet, or 503 while it loads the model
            return False

    def _get(self, path):
        with urllib.request.urlopen(f"{self.url}{path}", timeout=5) as answer:
            return answer.read().decode()


def _free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
