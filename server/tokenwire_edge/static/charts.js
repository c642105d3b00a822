/** The two charts of the playground, drawn on canvas: arrivals over time, and gaps between events. */

import { GapHistogram, formatMs } from "./measure.js";

const FONT_PX = 11;
const AXIS_PX = 20;
const LABEL_PX = 18;
const WHOLE_LANE_PX = 14;
const BINS_PER_BAR = 2;
/** Width of the label "Streamed". */
const STREAMED_PX = 62;

/** A canvas that is as sharp as the screen. */
class Chart {
  constructor(canvas) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d");
    this.colours = {};
    this.readColours();
  }

  /** Read the colours of the theme from the legend, whose style sheet has them. */
  readColours() {
    for (const swatch of document.querySelectorAll("[data-colour]")) {
      this.colours[swatch.dataset.colour] = getComputedStyle(swatch).backgroundColor;
    }
    const { fontFamily, color } = getComputedStyle(this.canvas);
    this.font = `${FONT_PX}px ${fontFamily}`;
    this.colours.label = color;
  }

  /** Adapt to the size of the element and clear it. Return its size in CSS pixels. */
  begin() {
    const { clientWidth: width, clientHeight: height } = this.canvas;
    const ratio = window.devicePixelRatio || 1;
    const [pixelWidth, pixelHeight] = [Math.round(width * ratio), Math.round(height * ratio)];
    if (this.canvas.width !== pixelWidth || this.canvas.height !== pixelHeight) {
      this.canvas.width = pixelWidth;
      this.canvas.height = pixelHeight;
    }
    this.context.setTransform(ratio, 0, 0, ratio, 0, 0);
    this.context.clearRect(0, 0, width, height);
    this.context.font = this.font;
    return { width, height };
  }

  label(text, x, y, align = "left", colour = "label") {
    this.context.fillStyle = this.colours[colour];
    this.context.textAlign = align;
    this.context.fillText(text, x, y);
  }

  bar(colour, x, y, width, height) {
    this.context.fillStyle = this.colours[colour];
    this.context.fillRect(x, y, width, height);
  }
}

/** When tokens arrived: one bar for each event, higher if the event joins more tokens. */
export class TimelineChart extends Chart {
  /**
   * `measurement` of the streamed answer; `whole`: `{endMs, isFailed}` of the other one, or null if there is
   * none; `nowMs`: time since the requests were sent.
   */
  draw(measurement, whole, nowMs) {
    const { width, height } = this.begin();
    const laneTop = LABEL_PX;
    const wholeTop = height - AXIS_PX - WHOLE_LANE_PX;
    const laneBottom = whole === null ? height - AXIS_PX : wholeTop - LABEL_PX;
    const spanMs = niceSpanMs(Math.max(nowMs, 1000));
    const xOf = (ms) => (Math.min(ms, spanMs) / spanMs) * width;

    this.drawAxis(spanMs, width, height);
    if (measurement !== null) {
      this.drawSeams(measurement.seams, nowMs, xOf, laneTop, laneBottom);
      this.drawArrivals(measurement, xOf, laneTop, laneBottom);
    }
    this.label("Streamed", 0, FONT_PX);
    this.bar("line", 0, laneBottom, width, 1);
    if (whole !== null) this.drawWhole(whole, nowMs, xOf, wholeTop);
  }

  drawAxis(spanMs, width, height) {
    const count = width < 480 ? 4 : 5;
    for (let i = 0; i <= count; i += 1) {
      const x = (i / count) * width;
      const align = i === 0 ? "left" : i === count ? "right" : "center";
      if (i > 0 && i < count) this.bar("line", Math.round(x), LABEL_PX, 1, height - AXIS_PX - LABEL_PX);
      this.label(i === 0 ? "0" : shortTime((i / count) * spanMs), x, height - 5, align);
    }
  }

  drawArrivals({ timeline, largestEvent }, xOf, top, bottom) {
    const { columns, columnMs } = timeline;
    const barWidth = Math.max(1.5, xOf(columnMs) - 0.5);
    const scale = (bottom - top - 4) / (1 + Math.log2(Math.max(largestEvent, 8)));
    columns.forEach(({ largest, kind }, place) => {
      const barHeight = (1 + Math.log2(largest)) * scale;
      this.bar(kind, xOf(place * columnMs), bottom - barHeight, barWidth, barHeight);
    });
  }

  drawSeams(seams, nowMs, xOf, top, bottom) {
    for (const { fromMs, toMs, deltas } of seams) {
      const from = xOf(fromMs);
      const to = xOf(toMs ?? nowMs);
      this.context.globalAlpha = 0.16;
      this.bar("seam", from, top, Math.max(2, to - from), bottom - top);
      this.context.globalAlpha = 1;
      this.bar("seam", from, top, 1.5, bottom - top);
      if (toMs === null) continue;
      this.bar("seam", to - 1.5, top, 1.5, bottom - top);
      const text = `${formatMs(toMs - fromMs)} disconnected, then ${deltas} tokens at once`;
      const rightmost = this.canvas.clientWidth - this.context.measureText(text).width;
      this.label(text, Math.max(STREAMED_PX, Math.min(from, rightmost)), FONT_PX, "left", "seam");
    }
  }

  drawWhole({ endMs, isFailed }, nowMs, xOf, top) {
    const end = xOf(endMs ?? nowMs);
    this.label("Whole answer", 0, top - 5);
    this.context.globalAlpha = 0.3;
    this.bar("whole", 0, top + WHOLE_LANE_PX / 2 - 1, end, 2);
    this.context.globalAlpha = 1;
    if (endMs !== null) this.bar(isFailed ? "seam" : "whole", Math.max(0, end - 4), top, 4, WHOLE_LANE_PX);
  }
}

/** How many gaps between two events are how long, on a logarithmic scale from 1 ms to 10 s. */
export class GapChart extends Chart {
  draw(gaps) {
    const { width, height } = this.begin();
    const bottom = height - AXIS_PX;
    const decades = [1, 10, 100, 1000, 10_000];
    const inset = 2;
    const xOf = (ms) => inset + (Math.log10(ms) / 4) * (width - 2 * inset);
    for (const ms of decades) {
      this.bar("line", Math.round(xOf(ms)), LABEL_PX, 1, bottom - LABEL_PX);
      const align = ms === 1 ? "left" : ms === 10_000 ? "right" : "center";
      this.label(shortTime(ms), xOf(ms), height - 5, align);
    }
    this.bar("line", 0, bottom, width, 1);
    if (gaps === null || gaps.total === 0) return;
    this.drawBars(gaps, xOf, bottom);
    this.drawQuantiles(gaps, xOf, bottom, width);
  }

  drawBars({ counts }, xOf, bottom) {
    const bars = [];
    // The first bin has the gaps below 1 ms: they are drawn with those just above it.
    for (let bin = 1; bin < counts.length; bin += BINS_PER_BAR) {
      let count = bin === 1 ? counts[0] : 0;
      for (let i = bin; i < Math.min(bin + BINS_PER_BAR, counts.length); i += 1) count += counts[i];
      bars.push(count);
    }
    if (bars.length > 1) bars[bars.length - 2] += bars.pop();
    const scale = (bottom - LABEL_PX - 6) / Math.max(...bars);
    bars.forEach((count, place) => {
      if (count === 0) return;
      const from = xOf(GapHistogram.edgeMs(place * BINS_PER_BAR));
      const to = xOf(GapHistogram.edgeMs((place + 1) * BINS_PER_BAR));
      const barHeight = Math.max(2, count * scale);
      this.bar("text", from + 0.5, bottom - barHeight, to - from - 1, barHeight);
    });
  }

  drawQuantiles(gaps, xOf, bottom, width) {
    const [median, tail] = [gaps.quantileMs(0.5), gaps.quantileMs(0.99)];
    const [medianX, tailX] = [median, tail].map((ms) => xOf(Math.min(10_000, Math.max(1, ms))));
    this.bar("label", medianX, LABEL_PX - 2, 1, bottom - LABEL_PX + 2);
    this.bar("label", tailX, LABEL_PX - 2, 1, bottom - LABEL_PX + 2);
    const medianText = `p50 ${formatMs(median)}`;
    const tailText = `p99 ${formatMs(tail)}`;
    const gap = 6;
    const medianWidth = this.context.measureText(medianText).width;
    const tailWidth = this.context.measureText(tailText).width;
    const medianAt = Math.min(Math.max(0, medianX - medianWidth / 2), width - medianWidth - gap - tailWidth);
    const tailAt = Math.min(Math.max(tailX - tailWidth / 2, medianAt + medianWidth + gap * 2), width - tailWidth);
    this.label(medianText, medianAt, FONT_PX);
    this.label(tailText, tailAt, FONT_PX);
  }
}

/** Return a round time that is at least `ms`, so that the axis does not move all the time. */
function niceSpanMs(ms) {
  const decade = 10 ** Math.floor(Math.log10(ms));
  return [1, 1.5, 2, 3, 4, 5, 6, 8, 10].map((factor) => factor * decade).find((span) => span >= ms * 0.999);
}

function shortTime(ms) {
  return ms < 1000 ? `${Math.round(ms)} ms` : `${Number((ms / 1000).toFixed(2))} s`;
}
