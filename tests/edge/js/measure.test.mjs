// Run with `node --test tests/edge/js/`.
import assert from "node:assert/strict";
import { test } from "node:test";

import {
  GapHistogram,
  Measurement,
  Timeline,
  durationMs,
  formatMicrousd,
  formatMs,
} from "../../../server/tokenwire_edge/static/measure.js";

const text = (sequence) => ({ type: "text", sequence: String(sequence), text: { text: "x" } });

test("a stream's figures are those of its events", () => {
  const measurement = new Measurement(1000);
  measurement.add({ type: "started", sequence: "1", started: { streamId: "s", fromCache: true } }, 1010);
  assert.equal(measurement.ttftMs, null);
  assert.equal(measurement.tokensPerSecond(1100), null);
  for (let i = 0; i < 100; i += 1) measurement.add(text(i + 2), 1300 + 20 * i);
  assert.equal(measurement.ttftMs, 300);
  assert.equal(measurement.gaps.total, 99);
  assert.ok(Math.abs(measurement.gaps.quantileMs(0.5) - 20) < 2.5);
  assert.ok(Math.abs(measurement.tokensPerSecond(3280) - 50) < 6);
  const usage = { inputTokens: "8", outputTokens: "100", costMicrousd: "42" };
  const timings = { ttft: "0.298s" };
  measurement.add({ type: "finished", sequence: "102", finished: { usage, timings } }, 3290);
  assert.equal(measurement.endMs, 2290);
  assert.equal(Math.round(measurement.tokensPerSecond(9999)), 50);
  assert.deepEqual([measurement.usage.costMicrousd, measurement.usage.outputTokens], [42, 100]);
  assert.equal(durationMs(measurement.serverTimings.ttft), 298);
  assert.equal(measurement.isFromCache, true);
});

test("an event that joins deltas counts as all of them, and a seam is no gap", () => {
  const measurement = new Measurement(0);
  measurement.add(text(2), 100);
  measurement.add(text(3), 110);
  measurement.cut(120);
  measurement.cut(130);
  measurement.add(text(63), 1500);
  measurement.add(text(64), 1510);
  assert.deepEqual(measurement.seams, [{ fromMs: 120, toMs: 1500, deltas: 60 }]);
  assert.deepEqual([measurement.eventCount, measurement.deltaCount, measurement.largestEvent], [4, 64, 60]);
  assert.equal(measurement.gaps.total, 2);
  assert.ok(measurement.gaps.quantileMs(1) < 12);
  measurement.cut(1520);
  measurement.end(2000);
  assert.equal(measurement.seams.at(-1).toMs, 2000);
});

test("what was missed is counted until the notice that it has all been read, or the end", () => {
  const caughtUp = (sequence) => ({ type: "notice", sequence, notice: { kind: "NOTICE_KIND_CAUGHT_UP" } });
  const finished = { type: "finished", sequence: "40", finished: {} };
  const measurement = new Measurement(0);
  measurement.add(caughtUp("1"), 50);
  measurement.add(text(2), 100);
  measurement.cut(110);
  measurement.add(text(10), 1500);
  measurement.add({ type: "jsonValue", sequence: "11", jsonValue: {} }, 1500);
  measurement.add(text(20), 1500);
  measurement.add(caughtUp("20"), 1500);
  measurement.add(text(21), 1520);
  measurement.cut(1530);
  measurement.add(text(30), 3000);
  measurement.add(text(39), 3000);
  measurement.add(finished, 3000);
  assert.deepEqual(measurement.seams.map(({ deltas }) => deltas), [17, 18]);
});

test("the rate of a running stream is that of the last second", () => {
  const measurement = new Measurement(0);
  for (let i = 0; i < 300; i += 1) measurement.add(text(i + 2), 1000 + i * 10);
  assert.ok(Math.abs(measurement.tokensPerSecond(4000) - 100) < 12);
  assert.equal(measurement.tokensPerSecond(6000), 0);
});

test("memory is bounded, and no token is lost where columns are joined", () => {
  const timeline = new Timeline();
  for (let i = 0; i < 100_000; i += 1) timeline.add(i * 7, i === 500 ? 40 : 1, i === 500 ? "reasoning" : "text");
  assert.ok(timeline.columns.length <= 600);
  const columns = timeline.columns.filter((column) => column !== undefined);
  assert.equal(columns.reduce((sum, { deltas }) => sum + deltas, 0), 100_039);
  assert.deepEqual(
    columns.filter(({ largest }) => largest > 1).map(({ largest, kind }) => [largest, kind]),
    [[40, "reasoning"]],
  );
});

test("quantiles are accurate to 12 % over four decades, and all gaps are counted", () => {
  const exact = [0.1, 1.3, 7, 31, 240, 2100, 9000, 60_000];
  for (const gap of exact.slice(1, -1)) {
    const histogram = new GapHistogram();
    histogram.add(gap);
    assert.ok(Math.abs(histogram.quantileMs(0.5) / gap - 1) < 0.12, String(gap));
  }
  const histogram = new GapHistogram();
  exact.forEach((gap) => histogram.add(gap));
  assert.equal(histogram.total, exact.length);
  assert.equal(histogram.counts[0], 1);
  assert.equal(histogram.counts.at(-1), 1);
  assert.equal(new GapHistogram().quantileMs(0.5), null);
});

test("figures are written for people", () => {
  assert.deepEqual([null, 0.2, 312.4, 999.6, 4310, 123_456].map(formatMs), [
    "–", "< 1 ms", "312 ms", "1.00 s", "4.31 s", "123 s",
  ]);
  assert.deepEqual([null, 0, 42, 1_234, 1_200_000].map(formatMicrousd), ["–", "$0.00", "$0.000042", "$0.0012", "$1.20"]);
});
