/** The values of a JSON answer, put together as they arrive. */

/** Deepest value that is put together. Servers send no deeper ones. */
const MAX_DEPTH = 64;
/** An index of an array. An answer has at most 2 Mi characters, so 7 digits are enough. */
const INDEX = /^(?:0|[1-9]\d{0,6})$/;

/**
 * A JSON answer that fills in: each value is added as soon as it is complete.
 *
 * Until an array or an object is complete, its kind is taken from its members: one whose first member is "0"
 * counts as an array, until it gets a member that no array has. What came before a resume by hand is missing;
 * missing elements of an array are null.
 */
export class PartialJson {
  #root = {}; // the answer is the member ""

  /** The answer as far as it is complete. Undefined: no value is. It changes with the next value: copy it. */
  get value() {
    return memberOf(this.#root, "");
  }

  /**
   * Add the next value: the content of an event `jsonValue`.
   *
   * @throws {SyntaxError} the event is not one that a server sends
   */
  add({ pointer = "", valueJson = "", isOmitted = false }) {
    const keys = keysOf(pointer);
    const value = isOmitted ? undefined : JSON.parse(valueJson);
    const last = keys.pop();
    let container = this.#root;
    for (const [place, key] of keys.entries()) container = descend(container, key, keys[place + 1] ?? last);
    if (!isOmitted) put(container, last, value);
  }

  /** Return the value at a JSON Pointer, or undefined if there is none. */
  get(pointer) {
    return keysOf(pointer).reduce(memberOf, this.#root);
  }
}

/** Return the keys on the way to a value, beginning with that of the whole answer. */
function keysOf(pointer) {
  if (pointer && !pointer.startsWith("/")) throw new SyntaxError(`not a JSON Pointer: ${pointer.slice(0, 100)}`);
  const keys = pointer.split("/").map((key) => key.replaceAll("~1", "/").replaceAll("~0", "~"));
  if (keys.length > MAX_DEPTH + 1) throw new SyntaxError(`a JSON value is nested more than ${MAX_DEPTH} deep`);
  return keys;
}

/** Return the object or the array in a container, which gets the member `following`. */
function descend(container, key, following) {
  let inner = memberOf(container, key);
  if (Array.isArray(inner) && !INDEX.test(following)) inner = Object.fromEntries(inner.entries()); // it was an object
  else if (typeof inner !== "object" || inner === null) inner = following === "0" ? [] : {};
  put(container, key, inner);
  return inner;
}

function memberOf(container, key) {
  if (typeof container !== "object" || container === null) return undefined;
  if (Array.isArray(container) && !INDEX.test(key)) return undefined;
  return Object.hasOwn(container, key) ? container[key] : undefined;
}

function put(container, key, value) {
  if (Array.isArray(container)) {
    while (container.length < Number(key)) container.push(null);
    container[key] = value;
  } else {
    // An assignment to a member named __proto__ would change the prototype.
    Object.defineProperty(container, key, { value, writable: true, enumerable: true, configurable: true });
  }
}
