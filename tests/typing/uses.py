"""Uses every public name as its types allow. Type checkers read it; it is never run."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypedDict, TypeVar, assert_type

import msgspec
import pydantic

import tokenwire

ItemT = TypeVar("ItemT")


@dataclass
class Weather:
    city: str
    celsius: float


class WeatherDict(TypedDict):
    city: str


class WeatherStruct(msgspec.Struct):
    city: str


class WeatherModel(pydantic.BaseModel):
    city: str


@dataclass
class Page(Generic[ItemT]):
    items: list[ItemT]


async def typed_answers(client: tokenwire.AsyncClient) -> None:
    weather = await client.chat("m", "Hi", response_format=Weather)
    assert_type(weather, tokenwire.Answer[Weather])
    assert_type(weather.parsed.celsius, float)
    as_dict = await client.chat("m", "Hi", response_format=WeatherDict)
    assert_type(as_dict.parsed["city"], str)
    as_struct = await client.chat("m", "Hi", response_format=WeatherStruct, request_id="r")
    assert_type(as_struct.parsed, WeatherStruct)
    as_model = await client.chat("m", "Hi", response_format=WeatherModel, timeout=1)
    assert_type(as_model.parsed, WeatherModel)
    page = await client.chat("m", "Hi", response_format=Page[Weather])
    assert_type(page.parsed.items, list[Weather])
    for each in (weather, as_struct, as_model):
        show(each)


def show(answer: tokenwire.Answer[object]) -> None:
    assert_type(answer.parsed, object)


async def typed_streams(client: tokenwire.AsyncClient) -> None:
    stream = client.chat_stream("m", "Hi", response_format=Weather)
    assert_type(stream, tokenwire.AsyncChatStream[Weather])
    async with stream:
        async for field in stream.values:
            assert_type(field, tokenwire.FieldValue)
            assert_type(field.pointer, str)
            assert_type(stream.partial, tokenwire.Json)
        assert_type(stream.result, Weather)
        assert_type((await stream.final()).parsed, Weather)
    async with client.resume("st_1", response_format=WeatherModel) as resumed:
        assert_type(await resumed.final(), tokenwire.Answer[WeatherModel])


async def untyped_answers(client: tokenwire.AsyncClient) -> None:
    schema = tokenwire.json_format("plan", {"type": "object"}, strict=True)
    assert_type(schema, tokenwire.ResponseFormat)
    answer = await client.chat("m", "Hi", response_format=schema)
    assert_type(answer, tokenwire.Answer)
    assert_type(answer.parsed, tokenwire.Json)
    plain = await client.chat("m", "Hi")
    assert_type(plain.text, str)
    assert_type(plain.tool_calls, list[tokenwire.ToolCall])
    assert_type(plain.citations, list[tokenwire.Citation])
    assert_type(plain.logprobs, list[tokenwire.Logprobs])
    assert_type(plain.invalid_tool_calls, list[tokenwire.InvalidToolCall])
    assert_type(plain.json_result, tokenwire.JsonResult | None)
    assert_type(plain.usage, tokenwire.Usage)
    assert_type(plain.finish_reason, tokenwire.FinishReason | None)
    assert_type(plain.response, tokenwire.ChatResponse)
    async with client.chat_stream("m", "Hi", resumable=True) as stream:
        assert_type(stream, tokenwire.AsyncChatStream)
        async for event in stream:
            assert_type(event, tokenwire.TokenEvent)
            assert_type(event.json_value, tokenwire.JsonValue)
            print(tokenwire.NoticeKind(event.notice.kind))
        print([await anext(stream.text), stream.text_so_far, stream.message])
        assert_type(await stream.until_first_content(), tokenwire.AsyncChatStream)
        assert_type(stream.detach(), tokenwire.StreamCursor)


def threads(client: tokenwire.Client) -> None:
    assert_type(client.chat("m", "Hi", response_format=Weather).parsed, Weather)
    with client.chat_stream("m", "Hi", response_format=Weather) as stream:
        assert_type(stream, tokenwire.ChatStream[Weather])
        for field in stream.values:
            print(field.value, field.is_omitted)
        assert_type(stream.result, Weather)
    with client.chat_stream("m", "Hi") as plain:
        assert_type(list(plain.text), list[str])
        assert_type(plain.final(), tokenwire.Answer)


def messages() -> list[tokenwire.Message]:
    picture: tokenwire.Part = tokenwire.image(b"", "image/png")
    return [
        tokenwire.system("Be brief."),
        tokenwire.user("Hi", picture, tokenwire.document("https://a"), tokenwire.audio(b"", "a/b")),
        tokenwire.assistant("Hello."),
        tokenwire.tool_result("call_1", "42"),
    ]


def role_of(message: tokenwire.Message) -> tokenwire.Role:
    return tokenwire.Role(message.role)


async def requests(client: tokenwire.AsyncClient, request: tokenwire.ChatRequest) -> None:
    count = await client.count_tokens(
        "m",
        [*messages(), {"role": "user", "content": "Hi"}, "Hi"],
        generation=tokenwire.GenerationConfig(temperature=0.5),
        tools=[tokenwire.tool("look", parameters={"type": "object"}), tokenwire.Tool(name="b")],
        tool_choice=tokenwire.ToolChoice(),
        response_format=Weather,
        delivery=tokenwire.delivery(heartbeat_s=1),
        retention=tokenwire.retention("continue", linger_s=10),
        budget=tokenwire.Budget(max_cost_microusd=1),
        cache=tokenwire.cache(ttl_s=60),
        labels={"team": "a"},
    )
    assert_type(count, tokenwire.TokenCount)
    options: tuple[
        tokenwire.CacheOptions, tokenwire.DeliveryOptions, tokenwire.RetentionOptions
    ] = (tokenwire.cache(), tokenwire.delivery(), tokenwire.retention())
    assert_type(await client.chat(request), tokenwire.Answer)
    print(options)


async def lookups(client: tokenwire.AsyncClient) -> None:
    assert_type(await client.list_models(), list[tokenwire.Model])
    assert_type(await client.get_caller(), tokenwire.Caller)
    info = await client.get_stream("st_1")
    assert_type(info, tokenwire.StreamInfo)
    print(tokenwire.StreamState(info.state))
    assert_type(client.usage_records(), AsyncIterator[tokenwire.UsageRecord])
    async for record in client.usage_records(models=["m"]):
        print(tokenwire.UsageOutcome(record.outcome))
    assert_type(await client.usage_summary(group_by="day"), list[tokenwire.UsageSummary])
    allowances: tuple[tokenwire.Allowance, ...] = client.allowances
    print(allowances, tokenwire.AsyncClient("a:1", key="k", tls=tokenwire.Tls(ca="a.pem")))


def look(city: str) -> str:
    return city


@tokenwire.function_tool(name="weather")
async def get_weather(city: str) -> Weather:
    if not city:
        raise tokenwire.ToolError("name a city")
    if city == "Atlantis":
        raise tokenwire.StopRun
    return Weather(city, 12.0)


async def runs(client: tokenwire.AsyncClient, threads_client: tokenwire.Client) -> None:
    assert_type(get_weather, tokenwire.FunctionTool)
    run = client.run_tools("m", messages(), tools=[look, get_weather], temperature=0.5)
    assert_type(run, tokenwire.AsyncToolRun)
    async with run:
        async for step in run:
            any_step: tokenwire.ToolRunStep = step
            match any_step:
                case tokenwire.ModelEvent(event=event):
                    assert_type(event, tokenwire.TokenEvent)
                case tokenwire.ToolStarted(call=call):
                    assert_type(call, tokenwire.ToolCall)
                case tokenwire.ToolFinished(duration_s=duration_s):
                    assert_type(duration_s, float)
                case tokenwire.RoundFinished(answer=answer):
                    assert_type(answer, tokenwire.Answer[Any])
    assert_type(run.messages, list[tokenwire.Message])
    finished = threads_client.run_tools("m", "Hi", tools=[look])
    assert_type(finished, tokenwire.ToolRun)
    assert_type(finished.final(), tokenwire.Answer)
    of_class = client.run_tools("m", "Hi", tools=[look], response_format=Weather, seed=1)
    assert_type((await of_class.final()).parsed, Weather)
    if of_class.answer is not None:
        assert_type(of_class.answer.parsed, Weather)


async def conversations(client: tokenwire.AsyncClient, threads_client: tokenwire.Client) -> None:
    policy: tokenwire.TrimPolicy = tokenwire.keep_last(20)
    fields: tokenwire.RequestFields = {"temperature": 0.5, "reasoning": "high"}
    assert_type(client.conversation("m", **fields), tokenwire.AsyncConversation[Any])
    conversation = client.conversation("m", system="Be brief.", trim=policy, temperature=0.5)
    assert_type(conversation, tokenwire.AsyncConversation)
    question: tokenwire.MessageLike = {"role": "user", "content": "Hi"}
    assert_type(await conversation.chat(question), tokenwire.Answer)
    async with conversation.fork().chat_stream("Hi") as stream:
        assert_type(stream, tokenwire.AsyncChatStream)
    assert_type(conversation.cut, tokenwire.CutTurn | None)
    assert_type(threads_client.conversation("m"), tokenwire.Conversation)
    of_class = await conversation.chat("Hi", response_format=Weather, max_retries=0)
    assert_type(of_class, tokenwire.Answer[Weather])
    async with conversation.chat_stream("Hi", response_format=WeatherModel) as typed:
        assert_type(typed, tokenwire.AsyncChatStream[WeatherModel])
    all_of_class = threads_client.conversation("m", response_format=WeatherStruct, seed=1)
    assert_type(all_of_class.chat("Hi").parsed, WeatherStruct)
    assert_type(all_of_class.fork().chat("Hi", response_format=Weather).parsed, Weather)
    with all_of_class.chat_stream("Hi", temperature=0) as stream_of_class:
        assert_type(stream_of_class.result, WeatherStruct)
    all_of_class.chat("Hi", response_format=None)


async def broken_off(client: tokenwire.AsyncClient, stream: tokenwire.AsyncChatStream) -> None:
    try:
        async with await client.continue_from(stream) as rest:
            print(rest.text_before, (await rest.final()).text)
        typed = client.chat_stream("m", "Hi", response_format=Weather)
        assert_type(await client.continue_from(typed), tokenwire.AsyncChatStream[Weather])
    except tokenwire.CannotContinue as error:
        print(error)


def pure_parts(event: tokenwire.TokenEvent, result: tokenwire.JsonResult) -> None:
    builder = tokenwire.AnswerBuilder()
    builder.add(event)
    show(builder.build())
    partial = tokenwire.PartialJson()
    partial.add(tokenwire.JsonValue(pointer="/a", value_json="1"))
    assert_type(partial.value, tokenwire.Json)
    places: Sequence[tokenwire.JsonViolation] = result.violations
    print(places)


async def errors(client: tokenwire.AsyncClient) -> None:
    try:
        print((await client.chat("m", "Hi", response_format=Weather)).parsed)
    except tokenwire.AnswerCut as error:
        assert_type(error.finish_reason, tokenwire.FinishReason)
        assert_type(error.partial, tokenwire.Json)
    except tokenwire.AnswerRefused as error:
        assert_type(error.explanation, str)
    except tokenwire.InvalidAnswer as error:
        assert_type(error.violations, tuple[tokenwire.Violation, ...])
    except tokenwire.AnswerError as error:
        assert_type(error.text, str)
    except tokenwire.LimitExceeded as error:
        assert_type(error.allowed, int | None)
    except tokenwire.ConnectionLost as error:
        assert_type(error.failure, tokenwire.ConnectFailure | None)
    except tokenwire.ToolRunError as error:
        assert_type(error.messages, tuple[tokenwire.Message, ...])
    except tokenwire.TokenwireError as error:
        assert_type(error.usage, tokenwire.Usage | None)


ERRORS: list[type[tokenwire.TokenwireError]] = [
    tokenwire.AccessError,
    tokenwire.CallEnded,
    tokenwire.RequestError,
    tokenwire.ServerError,
    tokenwire.ToolCostExceeded,
    tokenwire.ToolFailed,
    tokenwire.ToolRoundsExceeded,
    tokenwire.ToolTimeExceeded,
    tokenwire.TransportError,
    tokenwire.AnswerTooLarge,
    tokenwire.AnswerUnchecked,
    tokenwire.BudgetExceeded,
    tokenwire.Cancelled,
    tokenwire.ConnectionLost,
    tokenwire.ContextTooLong,
    tokenwire.DeadlineExceeded,
    tokenwire.Draining,
    tokenwire.IncompleteStream,
    tokenwire.InternalError,
    tokenwire.InvalidRequest,
    tokenwire.ModerationUnavailable,
    tokenwire.Overloaded,
    tokenwire.PermissionDenied,
    tokenwire.ProducerLost,
    tokenwire.QuotaExhausted,
    tokenwire.RateLimited,
    tokenwire.RequestIdReused,
    tokenwire.ResumeDisabled,
    tokenwire.ResumePointAhead,
    tokenwire.ResumePointError,
    tokenwire.ResumePointExpired,
    tokenwire.ServerStopped,
    tokenwire.SlowReader,
    tokenwire.StoreUnavailable,
    tokenwire.StreamNotFound,
    tokenwire.TooManyStreams,
    tokenwire.Unauthenticated,
    tokenwire.UnknownModel,
    tokenwire.UpstreamAuth,
    tokenwire.UpstreamBroken,
    tokenwire.UpstreamError,
    tokenwire.UpstreamRateLimited,
    tokenwire.UpstreamRejected,
    tokenwire.UpstreamStalled,
    tokenwire.UpstreamUnavailable,
]

TOOL_ERRORS: list[type[Exception]] = [
    tokenwire.InvalidArguments,
    tokenwire.ToolTimedOut,
    tokenwire.UnknownTool,
]
