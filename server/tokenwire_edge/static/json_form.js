/** The part of the form that requests an answer in JSON. */

/** Longest schema that the server accepts. */
const MAX_SCHEMA_CHARACTERS = 262_144;

export class JsonForm {
  #checkbox;
  #field;
  #schema;
  #problem;

  /** `field` contains the text area `schema`, and the element `problem` for what is wrong with its text. */
  constructor({ checkbox, field, schema, problem }) {
    this.#checkbox = checkbox;
    this.#field = field;
    this.#schema = schema;
    this.#problem = problem;
    checkbox.addEventListener("change", () => this.#show());
    schema.addEventListener("change", () => this.#report());
    schema.addEventListener("input", () => this.#problem.textContent && this.#report());
    this.#show(); // browsers restore the state of the box
  }

  /** Return whether a request can be sent. If it cannot, say why, and move the focus there. */
  check() {
    if (!this.#checkbox.checked || this.#report()) return true;
    this.#schema.focus();
    return false;
  }

  /** The format to request. Undefined: text. */
  get responseFormat() {
    if (!this.#checkbox.checked) return undefined;
    return { jsonSchema: { name: "answer", schemaJson: this.#schema.value, streamValues: true } };
  }

  #show() {
    this.#field.hidden = !this.#checkbox.checked;
  }

  /** Show what is wrong with the schema. Return whether nothing is. */
  #report() {
    const problem = problemOf(this.#schema.value);
    if (this.#problem.textContent !== problem) this.#problem.textContent = problem;
    this.#schema.setAttribute("aria-invalid", String(problem !== ""));
    return problem === "";
  }
}

/** Return what is wrong with the text of a schema, or "". The server checks whether it is a schema. */
function problemOf(text) {
  if (text.length > MAX_SCHEMA_CHARACTERS) return "The schema is longer than 262,144 characters.";
  let schema;
  try {
    schema = JSON.parse(text);
  } catch (error) {
    return `The schema is not JSON: ${error.message}`;
  }
  const isObject = typeof schema === "object" && schema !== null && !Array.isArray(schema);
  return isObject ? "" : "The schema must be a JSON object.";
}
