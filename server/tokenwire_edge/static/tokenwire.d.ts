/**
 * Types of `tokenwire.js`.
 *
 * Requests and events are those of `tokenwire.v1` in protobuf's JSON mapping: field names in lowerCamelCase,
 * 64-bit integers as strings, enum values by name, bytes in base64. A field with its default value is absent.
 */

/** A 64-bit integer. */
export type Int64 = string;
/** Seconds, such as "30s" or "0.5s". */
export type Duration = string;
/** An instant in RFC 3339, such as "2026-01-31T12:00:00Z". */
export type Timestamp = string;

export type Role = "ROLE_SYSTEM" | "ROLE_USER" | "ROLE_ASSISTANT" | "ROLE_TOOL";

export interface ToolCall {
  id: string;
  name: string;
  /** A JSON object, as text. */
  argumentsJson: string;
  /** State of the provider. Send it back unchanged. */
  providerState?: string;
}

export interface Part {
  text?: string;
  image?: { uri?: string; data?: string; mediaType?: string };
  document?: { uri?: string; data?: string; mediaType?: string; title?: string };
  audio?: { data: string; mediaType: string };
  toolCall?: ToolCall;
  toolResult?: { toolCallId: string; text?: string; isError?: boolean; parts?: Part[] };
  reasoning?: { text?: string; signature?: string; providerState?: string };
  cacheHint?: boolean;
  providerState?: string;
}

export interface Message {
  role: Role;
  parts: Part[];
}

/** The required format of the answer: one of its fields. All formats of `tokenwire.v1` are accepted. */
export interface ResponseFormat {
  jsonSchema?: {
    /** 1 to 64 of a-z A-Z 0-9 _ -. */
    name: string;
    /** The JSON Schema, as text. */
    schemaJson: string;
    strict?: boolean;
    /** Whether the stream also has the events `jsonValue` and `jsonResult`. */
    streamValues?: boolean;
    onInvalid?: "ON_INVALID_REPORT" | "ON_INVALID_FAIL";
  };
  [format: string]: unknown;
}

/** A ChatRequest. Either `prompt` or `messages` is required. All fields of `tokenwire.v1` are accepted. */
export interface ChatRequest {
  /** `provider/model`, or an alias. */
  model: string;
  /** Short for one message of the user with one text. */
  prompt?: string;
  messages?: Message[];
  generation?: {
    maxOutputTokens?: Int64 | number;
    temperature?: number;
    topP?: number;
    stopSequences?: string[];
    reasoning?: { effort?: string; budgetTokens?: Int64 | number; summary?: string };
    [field: string]: unknown;
  };
  tools?: { name: string; description?: string; parametersJsonSchema?: string }[];
  toolChoice?: { mode?: string; toolName?: string; parallel?: boolean };
  responseFormat?: ResponseFormat;
  delivery?: { heartbeatInterval?: Duration; usageInterval?: Duration };
  retention?: {
    onDisconnect?: "ON_DISCONNECT_CANCEL" | "ON_DISCONNECT_CONTINUE";
    linger?: Duration;
    logTtl?: Duration;
    softDeadlineMargin?: Duration;
  };
  budget?: { maxCostMicrousd?: Int64 | number; maxInputTokens?: Int64 | number };
  cache?: { mode?: string; ttl?: Duration };
  /** Idempotency key: sending a request again with the same one starts no second generation. */
  requestId?: string;
  labels?: Record<string, string>;
  providerOptions?: Record<string, unknown>;
  [field: string]: unknown;
}

export interface Usage {
  inputTokens?: Int64;
  outputTokens?: Int64;
  reasoningTokens?: Int64;
  cacheReadTokens?: Int64;
  cacheWriteTokens?: Int64;
  /** Whether the figures are estimates. */
  estimated?: boolean;
  /** Millionths of a US dollar. Absent: unknown. */
  costMicrousd?: Int64;
  [field: string]: unknown;
}

export type FinishReason =
  | "FINISH_REASON_STOP"
  | "FINISH_REASON_STOP_SEQUENCE"
  | "FINISH_REASON_MAX_TOKENS"
  | "FINISH_REASON_CONTEXT_FULL"
  | "FINISH_REASON_TOOL_CALLS"
  | "FINISH_REASON_INVALID_TOOL_CALLS"
  | "FINISH_REASON_CONTENT_FILTER"
  | "FINISH_REASON_REFUSAL"
  | "FINISH_REASON_PAUSED"
  | "FINISH_REASON_TIME_LIMIT"
  | "FINISH_REASON_BUDGET"
  | "FINISH_REASON_CANCELLED"
  | "FINISH_REASON_OTHER";

export interface Finished {
  reason: FinishReason;
  model?: string;
  provider?: string;
  usage?: Usage;
  timings?: {
    ttft?: Duration;
    duration?: Duration;
    itlP50?: Duration;
    itlP99?: Duration;
    outputTokensPerSecond?: number;
  };
  providerResponseId?: string;
  providerFinishReason?: string;
  refusal?: { category?: string; explanation?: string };
}

/** A value of JSON, as `JSON.parse` returns it. */
export type Json = null | boolean | number | string | Json[] | { [name: string]: Json };

/** A complete value of a JSON answer. */
export interface JsonValue {
  index?: number;
  /** Where the value is: a JSON Pointer (RFC 6901). Absent: it is the whole answer. */
  pointer?: string;
  /** The value, exactly as the model wrote it. */
  valueJson?: string;
  /** True for an object or an array that is not repeated, because it is large: its members were sent. */
  isOmitted?: boolean;
}

/** A reason why a JSON answer is not valid. */
export interface JsonViolation {
  /** The value that is wrong: a JSON Pointer, empty for the answer as a whole. */
  pointer: string;
  /** What is wrong, as text for people. */
  description: string;
}

/** The result of checking a JSON answer. */
export interface JsonResult {
  /** Whether the answer is one JSON document that follows the schema. */
  isValid: boolean;
  violations: JsonViolation[];
}

/** What each type of event has in the field of the same name. */
export interface EventContents {
  started: {
    streamId: string;
    requestId?: string;
    model?: string;
    provider?: string;
    createdTime?: Timestamp;
    estimatedInputTokens?: Int64;
    estimatedCostMicrousd?: Int64;
    fromCache?: boolean;
  };
  text: { text: string; index?: number; phase?: string; providerState?: string };
  reasoning: { text: string; signature?: string; index?: number; providerState?: string };
  toolCallStarted: { index?: number; id: string; name: string };
  toolCallDelta: { index?: number; argumentsJson: string };
  toolCall: { index?: number; toolCall: ToolCall };
  invalidToolCall: { index?: number; id?: string; name?: string; argumentsText?: string; problem?: string };
  citation: {
    index?: number;
    kind?: string;
    start?: number;
    end?: number;
    citedText?: string;
    url?: string;
    title?: string;
    documentIndex?: number;
  };
  logprobs: { index?: number; tokens?: Record<string, unknown>[] };
  jsonValue: JsonValue;
  /** The JSON answer is complete. Absent fields have their default values, also in the violations. */
  jsonResult: { isValid?: boolean; violations?: Partial<JsonViolation>[] };
  notice: { kind?: string; model?: string; provider?: string };
  usage: Usage;
  heartbeat: Record<string, never>;
  finished: Finished;
}

/**
 * An event: its content is in the field that `type` names. Later versions may add types: ignore those that
 * you do not use.
 */
export type TokenEvent = {
  [Type in keyof EventContents]: { type: Type; sequence: Int64 } & Pick<EventContents, Type>;
}[keyof EventContents];

export interface Answer {
  text: string;
  reasoning: string;
  /** The calls that are complete and valid. */
  toolCalls: ToolCall[];
  /** The message to append to the messages of the next request. */
  message: Message;
  /** The JSON answer as far as it is complete. Undefined: the request has no `streamValues`, or no value is. */
  json?: Json;
  /** Undefined: the request has no `streamValues`, or the answer ended before its check. */
  jsonResult?: JsonResult;
  /** Undefined only for a stream that was resumed after its end. */
  finished?: Finished;
  usage?: Usage;
}

export class TokenwireError extends Error {
  readonly name: "TokenwireError";
  /** HTTP status. 0: there was no answer. */
  readonly status: number;
  /** Such as `RATE_LIMITED`. `CONNECTION_LOST` and `INVALID_RESPONSE` are made by this client. */
  readonly reason: string;
  readonly facts: Record<string, string>;
  /** Time after which a retry can succeed, in seconds. */
  readonly retryAfterS?: number;
  readonly violations: { field: string; description: string }[];
  readonly streamId: string;
  readonly lastSequence: number;
  /** Whether the stream may still be readable with `resume`. */
  readonly isResumable: boolean;
}

export interface CallOptions {
  /** Its abort ends the call, which then throws the signal's reason. */
  signal?: AbortSignal;
}

export interface StreamOptions extends CallOptions {
  /** Whether to connect again after the connection broke. Default: true. */
  resume?: boolean;
  /** Called before each attempt to connect again. The first attempt after a new event has number 1. */
  onreconnect?: (attempt: number, lastSequence: number) => void;
}

export class ChatStream implements AsyncIterable<TokenEvent> {
  private constructor();
  /** Empty until the server has accepted the request. */
  readonly streamId: string;
  /** Sequence of the last event that was received: the cursor to resume after. */
  readonly lastSequence: number;
  /** The text of the events that were taken so far. */
  readonly text: string;
  /** The JSON answer as far as it is complete, with the events that were taken so far. */
  readonly json: Json | undefined;
  [Symbol.asyncIterator](): AsyncGenerator<TokenEvent, void, void>;
  /** Return the whole answer. Reads the stream to its end, unless a loop does that. */
  final(): Promise<Answer>;
  /** Stop the generation for all readers. The stream then ends with `finished`, reason CANCELLED. */
  cancel(): Promise<void>;
  /** Break the connection, as a network failure does. For tests and demonstrations of reconnecting. */
  disconnect(): void;
}

/**
 * A JSON answer that fills in: each value is added as soon as it is complete. `ChatStream.json` uses one.
 *
 * Until an array or an object is complete, its kind is taken from its members: one whose first member is "0"
 * counts as an array, until it gets a member that no array has. What came before a resume by hand is missing;
 * missing elements of an array are null.
 */
export class PartialJson {
  /** The answer as far as it is complete. Undefined: no value is. It changes with the next value: copy it. */
  readonly value: Json | undefined;
  /** Add the content of an event `jsonValue`. Throws a SyntaxError for one that no server sends. */
  add(value: JsonValue): void;
  /** Return the value at a JSON Pointer, or undefined if there is none. */
  get(pointer: string): Json | undefined;
}

export class TokenwireSocket {
  private constructor();
  /** Start a stream. `interrupt` is a stream of this socket that is cancelled first. */
  chat(request: ChatRequest, options?: StreamOptions & { interrupt?: ChatStream }): ChatStream;
  resume(streamId: string, options?: StreamOptions & { after?: number }): ChatStream;
  /** Break the connection, as a network failure does. */
  disconnect(): void;
  /** Close the WebSocket for good. Its streams end with the reason. */
  close(reason?: unknown): void;
}

export interface TokenwireOptions {
  /** Address of the edge. Default: the origin of the page. */
  baseUrl?: string;
  /** The key, or a function that returns one for each request. Default: none. */
  key?: string | (() => string | Promise<string>);
  /** Default: `globalThis.fetch`. */
  fetch?: typeof globalThis.fetch;
  /** Default: `globalThis.WebSocket`. Node has it from version 22. */
  WebSocket?: new (url: string, protocol: string) => unknown;
  /** Silence after which a connection counts as broken, in milliseconds. Default: 45,000. */
  idleTimeoutMs?: number;
  /** Attempts to connect again without a new event after which a stream fails. Default: 10. */
  maxAttempts?: number;
}

export class Tokenwire {
  constructor(options?: TokenwireOptions);
  /** The key for the next requests: a text, or a function that returns one. */
  key: string | (() => string | Promise<string>);
  /** Start a stream. The request is sent at once. */
  chat(request: ChatRequest, options?: StreamOptions): ChatStream;
  /** Read a stream after the sequence `after`. Default: from its beginning. */
  resume(streamId: string, options?: StreamOptions & { after?: number }): ChatStream;
  /** Open a WebSocket for several streams. */
  connect(options?: CallOptions): Promise<TokenwireSocket>;
  models(options?: CallOptions): Promise<Record<string, unknown>[]>;
  usage(query?: Record<string, string> | [string, string][], options?: CallOptions): Promise<Record<string, unknown>>;
  countTokens(request: ChatRequest, options?: CallOptions): Promise<Record<string, unknown>>;
  getStream(streamId: string, options?: CallOptions): Promise<Record<string, unknown>>;
  cancelStream(streamId: string, options?: CallOptions): Promise<Record<string, unknown>>;
  deleteStream(streamId: string, options?: CallOptions): Promise<Record<string, unknown>>;
}
