/** The page: controls, state and figures. See `run.js` for what is sent and read. */

import { element } from "./markdown_view.js";
import { GapChart, TimelineChart } from "./charts.js";
import { filterActions, isBlockedRequest, sentenceOf } from "./filters.js";
import { JsonForm } from "./json_form.js";
import { durationMs, formatMicrousd, formatMs } from "./measure.js";
import { ModelTable } from "./models.js";
import { StreamedRun, WholeRun, Wire } from "./run.js";
import { Tokenwire } from "./tokenwire.js";

/** Figures and charts are drawn less often than text: more often cannot be read. */
const FIGURES_INTERVAL_MS = 80;
const WEATHER = {
  name: "get_weather",
  description: "Return the current weather in a city.",
  parametersJsonSchema: JSON.stringify({
    type: "object",
    properties: { city: { type: "string" }, days: { type: "integer", minimum: 1 } },
    required: ["city", "days"],
  }),
};

const byId = (id) => document.getElementById(id);
const [composer, prompt, model, cache, pause, compare, tool] = [
  "composer", "prompt", "model", "cache", "pause", "compare", "tool",
].map(byId);
const [send, stop, pull, key, theme] = ["send", "stop", "wire", "key", "theme"].map(byId);
const panes = { streamed: paneOf("streamed"), whole: paneOf("whole") };
const timelineChart = new TimelineChart(byId("timeline"));
const gapChart = new GapChart(byId("gaps"));

const wire = new Wire();
const client = new Tokenwire({ fetch: wire.fetch });
const models = new ModelTable(client, (id) => {
  model.value = id;
  model.focus();
});
const jsonForm = new JsonForm({
  checkbox: byId("json"),
  field: byId("schema-field"),
  schema: byId("schema"),
  problem: byId("schema-problem"),
});
let streamed = null;
let whole = null;
let isStopping = false;
let figuresAt = 0;

function paneOf(id) {
  const root = byId(id);
  const answer = root.querySelector(".answer");
  const pane = {
    root,
    answer,
    state: root.querySelector(".pane-state"),
    lead: root.querySelector(".lead-value"),
    isPinned: true,
  };
  answer.addEventListener("scroll", () => {
    pane.isPinned = answer.scrollHeight - answer.scrollTop - answer.clientHeight < 32;
  }, { passive: true });
  return pane;
}

function isRunning() {
  return Boolean(streamed?.isRunning || whole?.isRunning);
}

function announce(text) {
  byId("announcement").textContent = text;
}

/* What is sent */

function requestOf() {
  const request = {
    model: model.value.trim(),
    messages: [{ role: "ROLE_USER", parts: [{ text: prompt.value }] }],
    delivery: { usageInterval: "1s" },
    // So that a reader may leave and come back. Without a reader, the generation ends after the linger.
    retention: { onDisconnect: "ON_DISCONNECT_CONTINUE", linger: "10s" },
  };
  if (cache.value !== "CACHE_MODE_OFF") request.cache = { mode: cache.value };
  if (tool.checked) request.tools = [WEATHER];
  if (jsonForm.responseFormat) request.responseFormat = jsonForm.responseFormat;
  return request;
}

function start() {
  if (isRunning() || !jsonForm.check()) return;
  client.key = key.value.trim();
  isStopping = false;
  const request = requestOf();
  for (const pane of Object.values(panes)) {
    pane.isPinned = true;
    delete pane.root.dataset.read;
  }
  panes.whole.root.hidden = !compare.checked;
  panes.whole.root.parentElement.classList.toggle("single", !compare.checked);
  const pauseMs = () => Number(pause.value);
  const container = panes.streamed.answer;
  streamed = new StreamedRun({ client, wire, request, container, pauseMs, onstate: onStreamedState });
  whole = null;
  if (compare.checked) {
    whole = new WholeRun({ client, request: { ...request, retention: {} }, container: panes.whole.answer, onstate: onWholeState });
    whole.read();
  }
  streamed.model = request.model;
  streamed.read();
  announce("Request sent.");
  panes.streamed.root.scrollIntoView({ block: "nearest" }); // on a phone, it is below the fold
  setText(byId("whole-announcement"), "");
  updateControls();
  drawFigures();
  requestAnimationFrame(onFrame);
}

function stopAll() {
  if (!isRunning() || isStopping) return;
  isStopping = true;
  if (whole?.isRunning) whole.stop();
  if (streamed?.isRunning) streamed.stop();
  announce("Stopping.");
  updateControls();
}

/* What has changed */

function onStreamedState(run) {
  if (run !== streamed) return;
  if (run.state === "streaming") {
    if ("read" in panes.streamed.root.dataset) announce("Resumed where the connection was cut.");
    else onFirstToken(run); // also if the connection was cut before it
  } else if (run.state === "out") {
    announce("Disconnected.");
  } else {
    onEnd(run, panes.streamed);
    const { verdict, beginning } = run.answer;
    const content = [run.error?.message, verdict, run.error ? "" : beginning].filter(Boolean).join(" ");
    announce(`Streamed answer: ${run.ending}. ${content}`);
    showFilters(run);
    drawFigures();
  }
  showState(panes.streamed, run);
  updateControls();
}

function onFirstToken(run) {
  announce(`The answer has begun after ${formatMs(run.measurement.ttftMs)}.`);
  if (!run.measurement.isFromCache) models.addSample(run.model, run.measurement.ttftMs);
  panes.streamed.root.dataset.read = "";
}

function onWholeState(run) {
  if (run !== whole) return;
  onEnd(run, panes.whole);
  showState(panes.whole, run);
  setText(byId("whole-announcement"), `Whole answer: ${run.ending} after ${formatMs(run.endMs)}. ${run.answer.verdict}`.trim());
  drawFigures();
  updateControls();
}

function onEnd(run, pane) {
  if (run.error !== null) pane.answer.append(failureElement(run.error));
  scrollToEnd(pane);
}

function scrollToEnd(pane) {
  if (pane === panes.streamed && pane.isPinned) pane.answer.scrollTop = pane.answer.scrollHeight;
}

async function showFilters(run) {
  if (run.started === null) return;
  const actions = await filterActions(run.started, client.key);
  if (run !== streamed || actions.length === 0) return;
  const note = element("p", "note");
  note.textContent = sentenceOf(actions);
  panes.streamed.answer.append(note);
  scrollToEnd(panes.streamed);
  announce(note.textContent);
}

function failureElement(error) {
  const failure = element("div", "failure");
  const reason = failure.appendChild(element("p"));
  if (error.reason) {
    const code = reason.appendChild(element("code"));
    code.textContent = error.reason;
    reason.append(" ");
  }
  if (isBlockedRequest(error)) reason.append("A content filter of the server refused the request. Nothing was sent to the model.");
  else reason.append(error.message);
  if (error.retryAfterS) failure.appendChild(element("p")).append(`Try again in ${error.retryAfterS} s.`);
  for (const { field, description } of error.violations ?? []) {
    const violation = failure.appendChild(element("p"));
    violation.append(`${field}: ${description}`);
  }
  return failure;
}

function showState(pane, run) {
  const texts = {
    waiting: "Waiting",
    streaming: run.measurement?.isFromCache ? "Replay from the cache" : "Streaming",
    out: "Disconnected",
  };
  pane.root.dataset.state = run.state;
  pane.answer.setAttribute("aria-busy", String(run.isRunning));
  const endMs = run.measurement?.endMs ?? run.endMs;
  const ending = run.measurement?.isFromCache ? `${run.ending}, from the cache` : run.ending;
  pane.state.textContent = texts[run.state] ?? `${ending}, ${formatMs(endMs)}`;
}

function updateControls() {
  const isBusy = isRunning();
  const focused = document.activeElement;
  send.disabled = isBusy;
  stop.disabled = !isBusy;
  pull.disabled = !streamed?.isRunning || streamed.state === "out" || isStopping;
  // A button that is disabled loses the focus, and the keyboard user their place.
  if (focused === send && isBusy) stop.focus();
  else if ((focused === stop || focused === pull) && focused.disabled) (isBusy ? stop : send).focus();
}

/* What is drawn */

function onFrame(now) {
  streamed.answer.draw();
  const { answer, isPinned } = panes.streamed;
  if (isPinned && streamed.isRunning) answer.scrollTop = answer.scrollHeight;
  if (now - figuresAt >= FIGURES_INTERVAL_MS) {
    figuresAt = now;
    drawFigures();
  }
  if (isRunning()) requestAnimationFrame(onFrame);
}

function drawFigures() {
  const now = performance.now();
  const { measurement } = streamed;
  const streamMs = measurement.elapsedMs(now);
  const readMs = measurement.ttftMs ?? (streamed.isRunning ? streamMs : null);
  setText(panes.streamed.lead, formatMs(readMs));
  if (streamed.state === "waiting") showState(panes.streamed, streamed);
  if (whole !== null) {
    const isShown = whole.isRunning || whole.state === "ended";
    setText(panes.whole.lead, isShown ? formatMs(whole.elapsedMs(now)) : "–");
    if (whole.isRunning) showState(panes.whole, whole);
  }
  drawMeasurement(measurement, now);
  const lastMs = Math.max(streamMs, whole?.elapsedMs(now) ?? 0);
  timelineChart.draw(measurement, whole, lastMs);
  gapChart.draw(measurement.gaps);
  if (!isRunning()) describeCharts(measurement);
}

function drawMeasurement(measurement, now) {
  const { usage, serverTimings, gaps, deltaCount, eventCount, largestEvent, isFromCache } = measurement;
  const rate = isFromCache ? null : measurement.tokensPerSecond(now);
  const serverTtftMs = durationMs(serverTimings?.ttft);
  const serverRate = serverTimings?.outputTokensPerSecond;
  setText(byId("ttft"), formatMs(measurement.ttftMs));
  setText(byId("ttft-server"), serverTtftMs === null ? "" : `${formatMs(serverTtftMs)} at the server`);
  setText(byId("itl"), formatMs(gaps.quantileMs(0.5)));
  setText(byId("itl-tail"), gaps.total ? `1 in 100 takes ${formatMs(gaps.quantileMs(0.99))} or more` : "");
  setText(byId("rate"), rate === null ? "–" : rate.toFixed(rate < 10 ? 1 : 0));
  setText(byId("rate-server"), serverRate === undefined ? "" : `${serverRate.toFixed(0)} at the server`);
  setText(byId("tokens"), deltaCount ? String(measurement.endMs !== null && usage?.outputTokens ? usage.outputTokens : deltaCount) : "–");
  const merged = largestEvent > 1 ? ` of up to ${largestEvent}` : "";
  setText(byId("events"), eventCount ? `in ${eventCount} events${merged}` : "");
  setText(byId("cost"), formatMicrousd(usage?.costMicrousd ?? null));
  setText(byId("cost-source"), costSource(measurement));
}

function costSource({ usage, isFromCache, endMs }) {
  if (usage === null) return "";
  if (isFromCache) return "replayed from the cache";
  if (usage.costMicrousd === null) return "the price is unknown";
  if (endMs === null) return "so far";
  return usage.isEstimated ? "estimated" : "as the provider counts";
}

function describeCharts({ ttftMs, deltaCount, eventCount, endMs, gaps, seams }) {
  if (ttftMs === null) return;
  const cuts = seams.length ? ` Disconnected ${seams.length === 1 ? "once" : `${seams.length} times`}.` : "";
  const total = `${deltaCount} tokens in ${eventCount} events from ${formatMs(ttftMs)} to ${formatMs(endMs)}.`;
  const waited = whole?.endMs ? ` The whole answer came after ${formatMs(whole.endMs)}.` : "";
  byId("timeline").setAttribute("aria-label", `${total}${cuts}${waited}`);
  const quantiles = `Median ${formatMs(gaps.quantileMs(0.5))}, 99th percentile ${formatMs(gaps.quantileMs(0.99))}.`;
  byId("gaps").setAttribute("aria-label", quantiles);
}

/** Set a text only if it changes, to spare the browser the layout. */
function setText(target, text) {
  if (target.textContent !== text) target.textContent = text;
}

function redrawCharts() {
  timelineChart.readColours();
  gapChart.readColours();
  if (streamed !== null) return drawFigures();
  timelineChart.draw(null, compare.checked ? { endMs: null } : null, 0);
  gapChart.draw(null);
}

function loadModels() {
  client.key = key.value.trim();
  models.load();
}

/* Settings, which stay in this browser */

function restore(storage, name) {
  try {
    return globalThis[storage].getItem(`tokenwire-${name}`) ?? "";
  } catch {
    return ""; // the browser does not allow storage
  }
}

function keep(storage, name, value) {
  try {
    globalThis[storage].setItem(`tokenwire-${name}`, value);
  } catch {
    // The value lasts as long as the page.
  }
}

function applyTheme() {
  document.documentElement.dataset.theme = theme.value;
  redrawCharts();
}

function showPause() {
  const text = pause.value === "0" ? "off" : `pauses ${pause.value} ms`;
  byId("pause-value").textContent = text;
  pause.setAttribute("aria-valuetext", text);
}

composer.addEventListener("submit", (event) => {
  event.preventDefault();
  start();
});
stop.addEventListener("click", stopAll);
pull.addEventListener("click", () => streamed?.pullWire());
pause.addEventListener("input", showPause);
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && isRunning()) stopAll();
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && !event.repeat) {
    event.preventDefault();
    if (!isRunning()) composer.requestSubmit();
  }
});
key.addEventListener("change", () => {
  keep("sessionStorage", "key", key.value.trim());
  loadModels();
});
theme.addEventListener("change", () => {
  keep("localStorage", "theme", theme.value);
  applyTheme();
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redrawCharts);
new ResizeObserver(redrawCharts).observe(byId("timeline"));

key.value = restore("sessionStorage", "key");
theme.value = restore("localStorage", "theme") || "system";
showPause();
applyTheme();
loadModels();
