/** What the server's content filters did to a request or an answer, for people. */

/** The server writes the record of a stream soon after its end. */
const RECORD_WAITS_MS = [400, 600, 1500];
/** Times in JSON may have more digits than a Date. */
const CREATED_WITHIN_MS = 2;

/** Return whether an error is the refusal of a request because of a filter or a moderation of the server. */
export function isBlockedRequest(error) {
  return (error.violations ?? []).some(({ description }) => /^is (blocked|flagged) by /.test(description));
}

/** Return whether a filter of the server, and not one of the provider, ended an answer. */
export function isBlockedAnswer({ reason, providerFinishReason }) {
  return reason === "FINISH_REASON_CONTENT_FILTER" && !providerFinishReason;
}

/** Return what filters did to a stream that has ended, from its usage record. Empty: nothing, or not known. */
export async function filterActions({ streamId, createdTime }, key) {
  const createdMs = Date.parse(createdTime);
  const query = new URLSearchParams({
    "filter.startTime": new Date(createdMs).toISOString(),
    "filter.endTime": new Date(createdMs + CREATED_WITHIN_MS).toISOString(),
  });
  const headers = { accept: "application/json", ...(key && { authorization: `Bearer ${key}` }) };
  for (const waitMs of RECORD_WAITS_MS) {
    await new Promise((resolve) => setTimeout(resolve, waitMs));
    try {
      const response = await fetch(`/v1/usage/records?${query}`, { headers, cache: "no-store" });
      if (!response.ok) return [];
      const { usageRecords = [] } = await response.json();
      const record = usageRecords.find((each) => each.streamId === streamId);
      if (record && record.outcome !== "USAGE_OUTCOME_OPEN") return record.filters ?? [];
    } catch {
      return []; // the answer is shown without them
    }
  }
  return [];
}

/** Return a sentence about the filters that acted. */
export function sentenceOf(actions) {
  const each = actions.map(({ name, action, count }) => {
    const times = Number(count) === 1 ? "once" : `${count} times`;
    return `${name} (${action}, ${times})`;
  });
  return `Filters of the server acted: ${each.join(", ")}.`;
}
