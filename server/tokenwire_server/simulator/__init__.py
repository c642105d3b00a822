"""A simulated provider: three wire formats over real HTTP, with scripted pace and faults. The demo and the
tests use it. It imports nothing else of the server.

    async with Simulator() as simulator:
        client = AsyncOpenAI(base_url=simulator.url + "/v1", api_key="any")
        await client.chat.completions.create(model="sim?tokens=200&itl_ms=20", ...)

`scenario` documents what can be scripted. The formats are `chat_completions`, `responses` and `messages`.
"""

from .demo import DEMO
from .journal import Entry, Stats
from .scenario import Scenario, ScenarioError
from .server import Simulator, run_simulator
from .words import generated_arguments, generated_reasoning, generated_text, varied_text

__all__ = [
    "DEMO",
    "Entry",
    "Scenario",
    "ScenarioError",
    "Simulator",
    "Stats",
    "generated_arguments",
    "generated_reasoning",
    "generated_text",
    "run_simulator",
    "varied_text",
]
