/** The list of models, with the times to first token that this page has measured. */

import { element } from "./markdown_view.js";
import { formatMicrousd, formatMs } from "./measure.js";

const MAX_SAMPLES = 50;
const MAX_MODELS = 200;
/** Scripts of the simulator that are offered where a model `demo` shows that there is one. */
const EXAMPLES = [
  "sim?tokens=900&tokens_per_second=300",
  "sim?reasoning=60&tokens=300&itl_ms=20&ttft_ms=800",
  "sim?tools=2&tokens=20&itl_ms=40",
];

export class ModelTable {
  #client;
  #onchoice;
  #models = [];
  #isLoaded = false;
  /** Times by model, newest last. */
  #samples = new Map();
  #table = document.getElementById("models");
  #state = document.getElementById("models-state");

  /** `onchoice(id)` is called when a model is chosen. */
  constructor(client, onchoice) {
    this.#client = client;
    this.#onchoice = onchoice;
  }

  /** Load the list. An error is shown in its place. */
  async load() {
    this.#isLoaded = false;
    try {
      this.#models = await this.#client.models();
      this.#isLoaded = true;
      this.#state.textContent = this.#models.length
        ? "Those that the server's configuration names. Other models of its providers work, too."
        : "The server's configuration names no models. All models of its providers work.";
    } catch (error) {
      this.#models = [];
      this.#state.textContent = `The list cannot be loaded: ${error.message}`;
    }
    this.#offer();
    this.#draw();
  }

  /** Add a measured time to first token, in ms. */
  addSample(id, ttftMs) {
    const known = this.#samples.get(id) ?? [];
    if (!this.#isLoaded) this.load(); // the server answers again
    if (known.length || this.#samples.size < MAX_MODELS) {
      this.#samples.set(id, [...known, ttftMs].slice(-MAX_SAMPLES));
    }
    this.#draw();
  }

  #offer() {
    const demo = this.#models.find(({ providerModel }) => providerModel === "demo");
    const examples = demo ? EXAMPLES.map((example) => `${demo.provider}/${example}`) : [];
    const options = [...this.#models.map(({ id }) => id), ...examples].map((id) => {
      const option = element("option");
      option.value = id;
      return option;
    });
    document.getElementById("known-models").replaceChildren(...options);
  }

  #draw() {
    const listed = new Map(this.#models.map((each) => [each.id, each]));
    const ids = [...new Set([...listed.keys(), ...this.#samples.keys()])];
    const slowestMs = Math.max(1, ...[...this.#samples.values()].map(median));
    this.#table.hidden = ids.length === 0;
    this.#table.tBodies[0].replaceChildren(
      ...ids.map((id) => this.#row(id, listed.get(id)?.prices, this.#samples.get(id), slowestMs)),
    );
  }

  #row(id, prices, samples, slowestMs) {
    const row = element("tr");
    const choose = row.appendChild(element("td")).appendChild(element("button"));
    choose.type = "button";
    choose.textContent = id;
    choose.addEventListener("click", () => this.#onchoice(id));
    const price = row.appendChild(element("td", "price"));
    price.textContent = prices ? [prices.inputMicrousd, prices.outputMicrousd].map(dollars).join(", ") : "–";
    const latency = row.appendChild(element("td")).appendChild(element("span", "latency"));
    if (samples === undefined) {
      latency.textContent = "not measured";
    } else {
      const bar = latency.appendChild(element("span", "latency-bar"));
      bar.style.setProperty("--share", Math.max(0.02, median(samples) / slowestMs));
      latency.append(`${formatMs(median(samples))}${samples.length > 1 ? `, median of ${samples.length}` : ""}`);
    }
    return row;
  }
}

function median(values) {
  return [...values].sort((a, b) => a - b)[Math.floor((values.length - 1) / 2)];
}

function dollars(microusd) {
  return formatMicrousd(Number(microusd ?? 0));
}
