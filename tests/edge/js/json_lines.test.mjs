import assert from "node:assert/strict";
import { test } from "node:test";

import { changeOf, jsonLines } from "../../../server/tokenwire_edge/static/json_lines.js";

const textOf = ({ lines }) => lines.map(({ text }) => text).join("\n");

test("the lines are those of JSON.stringify, and the tokens are their text", () => {
  const values = [
    null, "a\n\"b\"", -0.5, [], {}, [[], {}, [1, [true]]],
    JSON.parse('{"a": {"b": [1, {"": null}]}, "__proto__": {"c": "d"}, "0": []}'),
  ];
  for (const value of values) {
    const layout = jsonLines(value);
    assert.equal(textOf(layout), JSON.stringify(value, null, 2));
    assert.equal(layout.isCut, false);
    for (const { depth, text, tokens } of layout.lines) {
      assert.equal("  ".repeat(depth) + tokens.map((token) => token.text).join(""), text);
    }
  }
  const [, { tokens }] = jsonLines({ a: 1 }).lines;
  assert.deepEqual(tokens.map(({ kind }) => kind), ["name", "mark", "literal", "mark"]);
  assert.deepEqual(jsonLines(undefined), { lines: [], isCut: false });
});

test("a number that JSON has not is shown as it is read", () => {
  assert.equal(textOf(jsonLines(JSON.parse("[1e999]"))), "[\n  Infinity\n]");
});

for (const [name, value] of [
  ["a long text", "x".repeat(1e6)],
  ["a text of escapes", "\u0000".repeat(1e6)],
  ["long names", Object.fromEntries(Array.from({ length: 9 }, (_, place) => [`${place}${"n".repeat(1e5)}`, 1]))],
  ["many lines", Array(1e6).fill(0)],
  ["many members", Object.fromEntries(Array.from({ length: 1e5 }, (_, place) => [`n${place}`, {}]))],
  ["deep nesting", JSON.parse("[".repeat(1e5) + "]".repeat(1e5))],
]) {
  test(`of ${name}, at most the beginning is laid out`, () => {
    const layout = jsonLines(value);
    assert.ok(textOf(layout).length < 200_000, `${textOf(layout).length} characters`);
    assert.ok(layout.lines.length <= 2000);
    assert.equal(layout.isCut, name !== "deep nesting");
  });
}

test("what fits exactly is not cut", () => {
  const value = { a: ["b", "c"], d: 1 };
  const text = JSON.stringify(value, null, 2);
  const [maxCharacters, maxLines] = [text.length, text.split("\n").length];
  assert.equal(textOf(jsonLines(value, { maxCharacters, maxLines })), text);
  assert.equal(jsonLines(value, { maxCharacters, maxLines }).isCut, false);
  assert.equal(jsonLines(value, { maxCharacters, maxLines: maxLines - 1 }).isCut, true);
  assert.deepEqual(jsonLines("abc", { maxCharacters: 2 }).lines[0].text, '"a…');
});

const texts = (...lines) => lines.map((text) => ({ text }));

for (const [name, shown, lines, change] of [
  ["the first lines", [], ["{", "}"], { first: 0, end: 2, shownEnd: 0 }],
  ["nothing", ["{", "}"], ["{", "}"], { first: 2, end: 2, shownEnd: 2 }],
  ["a new member", ["{", " a", "}"], ["{", " a,", " b", "}"], { first: 1, end: 3, shownEnd: 2 }],
  ["a line like the one before", ["[", " 1,", " 1", "]"], ["[", " 1,", " 1,", " 1", "]"], { first: 2, end: 3, shownEnd: 2 }],
  ["a shorter value", ["{", " a", " b", "}"], ["{}"], { first: 0, end: 1, shownEnd: 4 }],
]) {
  test(`only what has changed is drawn again: ${name}`, () => {
    assert.deepEqual(changeOf(texts(...shown), texts(...lines)), change);
  });
}
