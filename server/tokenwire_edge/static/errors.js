/** Errors of the edge, of the server behind it, and of the connection. */

/** Reasons with status 503 that end the stream itself, and not only the connection to it. */
const FINAL_REASONS = new Set(["SERVER_STOPPED", "UPSTREAM_RATE_LIMITED", "UPSTREAM_UNAVAILABLE"]);

/** An error with a machine-readable reason. See `docs/errors.md` for all reasons of the server. */
export class TokenwireError extends Error {
  name = "TokenwireError";
  /** Id of the stream. Empty if it is not known, or if the error does not belong to a stream. */
  streamId = "";
  /** Sequence of the last event that was received. */
  lastSequence = 0;

  /**
   * @param {string} message
   * @param {{status?: number, reason?: string, facts?: Record<string, string>, retryAfterS?: number,
   *   violations?: {field: string, description: string}[], cause?: unknown}} [fields]
   */
  constructor(message, { status = 0, reason = "", facts = {}, retryAfterS, violations = [], cause } = {}) {
    super(message, cause === undefined ? undefined : { cause });
    /** HTTP status. 0: there was no answer. */
    this.status = status;
    /** Such as `RATE_LIMITED`. `CONNECTION_LOST` and `INVALID_RESPONSE` are made by this client. */
    this.reason = reason;
    /** Facts of the error by name, such as `limit`. */
    this.facts = facts;
    /** Time after which a retry can succeed, in seconds. Undefined: not known. */
    this.retryAfterS = retryAfterS;
    /** Invalid fields of the request: their paths, and what is wrong with each. */
    this.violations = violations;
  }

  /** Whether only the connection to the stream broke, so that `resume` may still read it after its cursor. */
  get isResumable() {
    if (this.reason === "CONNECTION_LOST") return true;
    if (!this.reason) return [408, 429, 502, 503, 504].includes(this.status); // a proxy's own answer
    return this.status === 503 && !FINAL_REASONS.has(this.reason);
  }
}

/** Return the error for a connection that broke, or that could not be made. */
export function connectionLost(message, cause) {
  return new TokenwireError(message, { reason: "CONNECTION_LOST", cause });
}

/** Return the error for bytes that cannot come from an edge. */
export function invalidResponse(message, status, cause) {
  return new TokenwireError(message, { status, reason: "INVALID_RESPONSE", cause });
}

/** Return the error of an `application/problem+json` object. */
export function problemError(problem) {
  return new TokenwireError(problem.detail || problem.title || "the request failed", problem);
}

/** Return the error of a response whose status is not 2xx. Other content than a problem is tolerated. */
export async function responseError(response) {
  const seconds = Number(response.headers.get("retry-after") ?? Number.NaN); // a date gives NaN
  const retryAfterS = Number.isFinite(seconds) ? seconds : undefined;
  const { status } = response;
  try {
    const problem = await response.json();
    if (problem?.reason) return problemError({ retryAfterS, ...problem, status });
  } catch {
    // Not JSON: the answer of a proxy.
  }
  return new TokenwireError(`the edge answered with HTTP status ${status}`, { status, retryAfterS });
}
