"""The browser client in Node, with real servers that cut connections, and its TypeScript types."""

import json
import re

import node

STATIC = "../../../server/tokenwire_edge/static"


def test_the_browser_client_passes_its_own_tests():
    node.run("node", "--test", "--test-reporter=spec")


def test_the_types_are_those_of_a_program_that_uses_all_of_them():
    node.run("tsc", "--project", "tsconfig.json")


def test_the_types_name_what_the_module_has():
    """Every public method and getter of the exported classes."""
    script = f"""
      import * as module from "{STATIC}/tokenwire.js";
      const names = ({{ prototype }}) => Object.getOwnPropertyNames(prototype).filter((name) => name !== "constructor");
      const classes = Object.entries(module).map(([name, each]) => [name, names(each)]);
      console.log(JSON.stringify(Object.fromEntries(classes)));
    """
    classes = json.loads(node.run("node", "--input-type=module", "--eval", script))
    types = (node.FOLDER / STATIC / "tokenwire.d.ts").resolve().read_text()
    assert classes.keys() == set(re.findall(r"^export class (\w+)", types, re.MULTILINE))
    for name, members in classes.items():
        declared = re.search(rf"^export class {name}\b.*?^}}", types, re.MULTILINE | re.DOTALL)[0]
        for member in set(members) - {"open"}:  # called by `Tokenwire.connect` only
            assert re.search(rf"\b{member}\b", declared), f"{name}.{member}"


def test_leaving_a_stream_closes_the_connection_to_the_provider_before_the_linger(edge, simulator):
    script = f"""
      import {{ Tokenwire }} from "{STATIC}/tokenwire.js";
      const client = new Tokenwire({{ baseUrl: "{edge}" }});
      const request = {{ model: "openai/sim?tokens=100000&itl_ms=10", prompt: "Hi" }};
      for await (const event of client.chat(request)) if (event.type === "text") break;
      const controller = new AbortController();
      const stream = client.chat(request, {{ signal: controller.signal }});
      setTimeout(() => controller.abort(), 100);
      await stream.final().catch(() => {{}});
    """
    node.run("node", "--input-type=module", "--eval", script)
    simulator.wait_until_none_open(within_s=20)  # the linger is 30 s
