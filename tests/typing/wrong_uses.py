"""Wrong uses. Type checkers must report each line that ends with the comment `wrong`, and no other line."""

from dataclasses import dataclass

import tokenwire


@dataclass
class Weather:
    city: str


async def asyncio_client(client: tokenwire.AsyncClient) -> None:
    answer = await client.chat("m", "Hi", response_format=Weather)
    print(answer.parsed.town)  # wrong
    print(answer.parsed["city"])  # wrong
    answer.text = "x"  # wrong
    number: int = answer.parsed  # wrong
    print(number)
    plain = await client.chat("m", "Hi")
    print(plain.parsed.city)  # wrong
    print(plain.choices)  # wrong
    print(client.chat("m", "Hi").text)  # wrong
    await client.chat("m", "Hi", response_format=Weather("Rome"))  # wrong
    await client.chat("m", "Hi", reponse_format=Weather)  # wrong
    await client.chat("m", "Hi", timeout="1 s")  # wrong
    await client.chat("m", 7)  # wrong
    await client.chat(7, "Hi")  # wrong
    await client.count_tokens("m", "Hi", labels={"a": 1})  # wrong
    with client.chat_stream("m", "Hi"):  # wrong
        pass
    async with client.chat_stream("m", "Hi", response_format=Weather) as stream:
        for _ in stream.text:  # wrong
            pass
        print(stream.result.town)  # wrong
        print(stream.partial.city)  # wrong
        print(stream.final().text)  # wrong
        tokens: list[str] = [event async for event in stream]  # wrong
        print(tokens)


async def tools(client: tokenwire.AsyncClient) -> None:
    await client.chat("m", "Hi", temperature="hot")  # wrong
    await client.chat("m", "Hi", max_tokens=5)  # wrong
    client.run_tools("m", "Hi", tools=["look"])  # wrong
    client.run_tools("m", "Hi", tools=[print], max_round=3)  # wrong
    run = client.run_tools("m", "Hi", tools=[print], response_format=Weather)
    print((await run.final()).parsed.town)  # wrong
    client.conversation("m", trim=20)  # wrong
    conversation = client.conversation("m", response_format=Weather)
    print((await conversation.chat("Hi")).parsed.town)  # wrong
    await conversation.chat("Hi", reponse_format=Weather)  # wrong
    await conversation.chat("Hi", response_format=Weather("Rome"))  # wrong


def threads(client: tokenwire.Client) -> None:
    print(client.chat("m", "Hi", response_format=Weather).parsed.town)  # wrong
    with client.chat_stream("m", "Hi", response_format=Weather) as stream:
        weather: str = stream.result  # wrong
        print(weather)
        stream.answer = None  # wrong


def builders() -> None:
    tokenwire.image(7)  # wrong
    tokenwire.user(["Hi"])  # wrong
    tokenwire.tool_result(1, "42")  # wrong
    tokenwire.json_format("plan", "{}")  # wrong
    tokenwire.retention("keep")  # wrong
    tokenwire.delivery(heartbeat="1 s")  # wrong
    tokenwire.Tls(certificate="a.pem")  # wrong
    print(tokenwire.no_such_name)  # wrong


def clients() -> None:
    tokenwire.Client(base_url="https://example.com")  # wrong
    tokenwire.AsyncClient(api_key="tw_1")  # wrong


def errors(error: tokenwire.InvalidAnswer) -> None:
    print(error.finish_reason)  # wrong
    number: int = error.text  # wrong
    print(number)
