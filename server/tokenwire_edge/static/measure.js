/**
 * Measure a stream from its events: time to first token, gaps between events, tokens per second, cost.
 * Pure: the caller gives the times, in milliseconds of one monotonic clock. The memory is bounded.
 */

const FIRST_EDGE_MS = 1;
const BINS_PER_DECADE = 20;
const DECADES = 4;
const RATE_SLOTS = 10;
const RATE_SLOT_MS = 100;
const MAX_COLUMNS = 600;
const FIRST_COLUMN_MS = 10;
const MAX_SEAMS = 200;

/** Content that a model generates, and the colour of its bar in the timeline. */
const GENERATED = { text: "text", reasoning: "reasoning", toolCallDelta: "tool", toolCallStarted: "tool" };

/** Gaps by length, in bins of equal width on a logarithmic scale from 1 ms to 10 s. */
export class GapHistogram {
  /** Number of gaps in each bin. The first one has all shorter gaps, the last one all longer ones. */
  counts = new Array(BINS_PER_DECADE * DECADES + 2).fill(0);
  total = 0;

  add(gapMs) {
    const position = Math.log10(Math.max(gapMs, 1e-9) / FIRST_EDGE_MS) * BINS_PER_DECADE;
    this.counts[Math.min(this.counts.length - 1, Math.max(0, Math.floor(position) + 1))] += 1;
    this.total += 1;
  }

  /** Return the upper edge of a bin, in ms. */
  static edgeMs(bin) {
    return FIRST_EDGE_MS * 10 ** (bin / BINS_PER_DECADE);
  }

  /** Return the gap that `share` of all gaps do not exceed, accurate to 12 %. Null: there are no gaps. */
  quantileMs(share) {
    if (!this.total) return null;
    let seen = 0;
    const rank = Math.max(1, Math.ceil(share * this.total));
    const bin = this.counts.findIndex((count) => (seen += count) >= rank);
    return bin === 0 ? FIRST_EDGE_MS / 2 : GapHistogram.edgeMs(bin - 0.5);
  }
}

/** Arrivals over time, in columns that get wider as the time grows, so that there are at most 600. */
export class Timeline {
  /** `{deltas, largest, kind}` or undefined: tokens, tokens of the largest event, and its kind. */
  columns = [];
  columnMs = FIRST_COLUMN_MS;

  add(atMs, deltas, kind) {
    while (atMs / this.columnMs >= MAX_COLUMNS) this.#halve();
    const place = Math.max(0, Math.floor(atMs / this.columnMs));
    this.columns[place] = joined(this.columns[place], { deltas, largest: deltas, kind });
  }

  #halve() {
    const half = [];
    this.columns.forEach((column, place) => {
      half[place >> 1] = joined(half[place >> 1], column);
    });
    this.columns = half;
    this.columnMs *= 2;
  }
}

function joined(first, second) {
  if (first === undefined || second === undefined) return first ?? second;
  const { largest, kind } = second.largest >= first.largest ? second : first;
  return { deltas: first.deltas + second.deltas, largest, kind };
}

/** What is known of one stream so far. All times are milliseconds since the request was sent. */
export class Measurement {
  gaps = new GapHistogram();
  timeline = new Timeline();
  /** Places where reading was interrupted: `{fromMs, toMs, deltas}`. `toMs` is null until it goes on. */
  seams = [];
  /** Time to the first generated content. Null: there is none yet. */
  ttftMs = null;
  /** Time to the end. Null: the stream runs. */
  endMs = null;
  /** Events with generated content, and the tokens in them as the provider sent them. */
  eventCount = 0;
  deltaCount = 0;
  largestEvent = 0;
  /** Usage as the server reports it. Null: no report yet. */
  usage = null;
  /** Timings that the server measured, once the stream has finished. */
  serverTimings = null;
  isFromCache = false;

  #startedAt;
  #sequence = 0;
  #sinceSeam = null; // tokens that arrived since the last seam, until all that was missed has been read
  #lastArrivalMs = null;
  #slots = new Array(RATE_SLOTS).fill(0);
  #slot = 0;

  constructor(startedAt) {
    this.#startedAt = startedAt;
  }

  elapsedMs(now) {
    return this.endMs ?? now - this.#startedAt;
  }

  /** Count an event that arrived at the time `now`. */
  add(event, now) {
    const atMs = now - this.#startedAt;
    const sequence = Number(event.sequence ?? 0);
    const deltas = Math.max(1, sequence - this.#sequence);
    this.#sequence = Math.max(this.#sequence, sequence);
    if (event.type in GENERATED) this.#addArrival(atMs, deltas, GENERATED[event.type]);
    else if (event.type === "started") this.isFromCache = event.started.fromCache ?? false;
    else if (event.type === "usage") this.usage = usageOf(event.usage);
    else if (event.notice?.kind === "NOTICE_KIND_CAUGHT_UP") this.#endCatchUp();
    else if (event.type === "finished") {
      this.#endCatchUp();
      this.usage = usageOf(event.finished.usage ?? {});
      this.serverTimings = event.finished.timings ?? null;
      this.end(now);
    }
  }

  #addArrival(atMs, deltas, kind) {
    const seam = this.seams.at(-1);
    this.ttftMs ??= atMs;
    if (this.#sinceSeam !== null) this.#sinceSeam += deltas;
    if (seam?.toMs === null) Object.assign(seam, { toMs: atMs, deltas });
    else if (this.#lastArrivalMs !== null) this.gaps.add(atMs - this.#lastArrivalMs);
    this.#lastArrivalMs = atMs;
    this.eventCount += 1;
    this.deltaCount += deltas;
    this.largestEvent = Math.max(this.largestEvent, deltas);
    this.timeline.add(atMs, deltas, kind);
    this.#advance(atMs);
    this.#slots[this.#slot % RATE_SLOTS] += deltas;
  }

  /** The connection was cut at the time `now`. The gap until the next event counts as a seam, not as a gap. */
  cut(now) {
    if (this.seams.length < MAX_SEAMS && this.seams.at(-1)?.toMs !== null) {
      this.seams.push({ fromMs: now - this.#startedAt, toMs: null, deltas: 0 });
      this.#sinceSeam = 0;
    }
  }

  /** What was missed may arrive in several events, such as pieces of text with JSON values between them. */
  #endCatchUp() {
    const seam = this.seams.at(-1);
    if (seam && this.#sinceSeam !== null && seam.toMs !== null) seam.deltas = this.#sinceSeam;
    this.#sinceSeam = null;
  }

  /** The stream ended at the time `now`. */
  end(now) {
    this.endMs ??= now - this.#startedAt;
    const seam = this.seams.at(-1);
    if (seam?.toMs === null) seam.toMs = this.endMs;
  }

  /** Return the tokens per second of the last second, or of the whole stream once it has ended. */
  tokensPerSecond(now) {
    if (this.ttftMs === null) return null;
    const atMs = this.elapsedMs(now);
    const sinceFirstMs = (this.endMs === null ? atMs : this.#lastArrivalMs) - this.ttftMs;
    if (this.endMs !== null) return sinceFirstMs > 0 ? ((this.deltaCount - 1) * 1000) / sinceFirstMs : null;
    this.#advance(atMs);
    const windowMs = Math.min(sinceFirstMs, (RATE_SLOTS - 1) * RATE_SLOT_MS + (atMs % RATE_SLOT_MS));
    return windowMs >= 2 * RATE_SLOT_MS ? (this.#slots.reduce((a, b) => a + b) * 1000) / windowMs : null;
  }

  #advance(atMs) {
    const slot = Math.floor(atMs / RATE_SLOT_MS);
    if (slot - this.#slot >= RATE_SLOTS) this.#slots.fill(0);
    else while (this.#slot < slot) this.#slots[(this.#slot += 1) % RATE_SLOTS] = 0;
    this.#slot = Math.max(this.#slot, slot);
  }
}

/** Return the usage with numbers: 64-bit integers are strings in protobuf's JSON mapping. */
function usageOf({ outputTokens, costMicrousd, estimated }) {
  return {
    outputTokens: Number(outputTokens ?? 0),
    costMicrousd: costMicrousd === undefined ? null : Number(costMicrousd),
    isEstimated: estimated ?? false,
  };
}

/** Return the milliseconds of a duration in protobuf's JSON mapping, such as "0.312s". Null: absent. */
export function durationMs(text) {
  return text === undefined || text === null ? null : Number.parseFloat(text) * 1000;
}

/** Write a time for people: "312 ms", "4.31 s". */
export function formatMs(ms) {
  if (ms === null) return "–";
  if (ms < 1) return "< 1 ms";
  if (ms < 999.5) return `${Math.round(ms)} ms`;
  return `${(ms / 1000).toFixed(ms < 99_950 ? 2 : 0)} s`;
}

/** Write an amount for people: "$0.000042", "$1.20". Null: the price is unknown. */
export function formatMicrousd(microusd) {
  if (microusd === null) return "–";
  const dollars = microusd / 1e6;
  const decimals = dollars >= 1 || dollars === 0 ? 2 : Math.min(6, 1 - Math.floor(Math.log10(dollars)));
  return `$${dollars.toFixed(Math.max(2, decimals))}`;
}
