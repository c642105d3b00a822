import assert from "node:assert/strict";
import { test } from "node:test";

import { PartialJson } from "../../../server/tokenwire_edge/static/tokenwire.js";

const KEYS = ["0", "1", "a", "", "a/b", "~", "~1", "é", "__proto__", "constructor"];
const SCALARS = [null, true, false, 0, -1.5, "", "x"];

/** Return the values of a document, in the order in which they end. */
function values(document, { omits = [] } = {}, pointer = "") {
  const members = typeof document === "object" && document !== null ? Object.entries(document) : [];
  const found = members.flatMap(([key, member]) => {
    const name = key.replaceAll("~", "~0").replaceAll("/", "~1");
    return values(member, { omits }, `${pointer}/${name}`);
  });
  if (omits === "all" ? members.length : omits.includes(pointer)) return [...found, { pointer, isOmitted: true }];
  return [...found, { pointer, valueJson: JSON.stringify(document) }];
}

/** Return documents that a generator of random numbers makes, the same ones each time. */
function documents(count) {
  let seed = 1;
  const below = (bound) => (seed = (seed * 48_271) % 2_147_483_647) % bound;
  const document = (depth) => {
    const kind = below(depth < 4 ? 4 : 2);
    if (kind < 2) return SCALARS[below(SCALARS.length)];
    const members = Array.from({ length: below(5) }, () => document(depth + 1));
    if (kind === 2) return members;
    return Object.fromEntries(members.map((member) => [KEYS[below(KEYS.length)], member]));
  };
  return Array.from({ length: count }, () => document(0));
}

function partialOf(events) {
  const partial = new PartialJson();
  for (const event of events) partial.add(event);
  return partial;
}

/** Return the answer after each event. */
function fillings(events) {
  const partial = new PartialJson();
  return events.map((event) => {
    partial.add(event);
    return JSON.stringify(partial.value);
  });
}

test("a document is the same as its values put together", () => {
  for (const document of documents(2000)) {
    const partial = new PartialJson();
    for (const event of values(document)) {
      partial.add(event);
      assert.deepEqual(partial.get(event.pointer), JSON.parse(event.valueJson));
    }
    assert.deepEqual(partial.value, document);
  }
});

test("large containers that are not repeated are put together from their members", () => {
  const document = { steps: [{ title: "a" }, { title: "b", tags: [] }], n: 1 };
  const events = values(document, { omits: ["", "/steps", "/steps/1"] });
  assert.deepEqual(partialOf(events).value, document);
});

test("names of members are decoded", () => {
  const document = { "a/b": 1, "~": 2, "~1": { "~0": 3, "": 4 } };
  assert.deepEqual(partialOf(values(document, { omits: "all" })).value, document);
});

test("an answer fills in", () => {
  assert.deepEqual(fillings(values({ a: { b: [1, 2] }, c: null })), [
    '{"a":{"b":[1]}}',
    '{"a":{"b":[1,2]}}',
    '{"a":{"b":[1,2]}}',
    '{"a":{"b":[1,2]}}',
    '{"a":{"b":[1,2]},"c":null}',
    '{"a":{"b":[1,2]},"c":null}',
  ]);
});

test("an object with the first member 0 becomes an object with the next name", () => {
  const events = values({ 0: [1], a: 2 }).slice(0, -1);
  assert.deepEqual(fillings(events), ["[[1]]", "[[1]]", '{"0":[1],"a":2}']);
  const zeros = [{ pointer: "/0", valueJson: "1" }, { pointer: "/00", valueJson: "2" }];
  assert.deepEqual(fillings(zeros), ["[1]", '{"0":1,"00":2}']);
});

test("elements before a resume are null", () => {
  const partial = partialOf([{ pointer: "/0", valueJson: "1" }, { pointer: "/3", valueJson: "4" }]);
  assert.deepEqual(partial.value, [1, null, null, 4]);
  assert.equal(partial.get("/4"), undefined);
});

test("no value is undefined, and null is a value", () => {
  assert.equal(new PartialJson().value, undefined);
  assert.equal(partialOf([{ valueJson: "null" }]).value, null); // JSON leaves out an empty pointer
});

for (const [name, pointer, valueJson] of [
  ["a pointer without a slash", "a", "1"],
  ["a value that is not JSON", "/a", "{"],
  ["a value that is too deep", "/a".repeat(65), "1"],
]) {
  test(`${name} is an error and changes nothing`, () => {
    const partial = partialOf([{ pointer: "/0/0", valueJson: "1" }]);
    assert.throws(() => partial.add({ pointer, valueJson }), SyntaxError);
    assert.deepEqual(partial.value, [[1]]);
  });
}

test("names of members do not reach prototypes", () => {
  const document = JSON.parse('{"__proto__": {"polluted": 1}, "constructor": {"prototype": {"polluted": 2}}}');
  for (const events of [values(document), values(document, { omits: "all" })]) {
    const partial = partialOf(events);
    assert.equal({}.polluted, undefined);
    assert.equal(Object.getPrototypeOf(partial.value), Object.prototype);
    assert.equal(partial.value.polluted, undefined);
    assert.deepEqual(Object.keys(partial.value), ["__proto__", "constructor"]);
    assert.equal(partial.get("/__proto__/polluted"), 1);
    assert.equal(partial.get("/toString"), undefined);
  }
  const scalar = partialOf([{ pointer: "/__proto__", valueJson: "1" }]);
  assert.equal(JSON.stringify(scalar.value), '{"__proto__":1}');
  const list = partialOf([{ pointer: "/0", valueJson: "1" }, { pointer: "/__proto__/0", valueJson: "2" }]);
  assert.equal(JSON.stringify(list.value), '{"0":1,"__proto__":[2]}');
});
