import asyncio

import grpc.aio

from tokenwire_server.simulator import generated_text


async def test_a_thousand_concurrent_streams_arrive_completely_and_leave_nothing_open(
    server, simulator, api_on
):
    streams, tokens = 1000, 60
    expected = "".join(generated_text(tokens))
    # As many connections as a few services would open.
    channels = [
        grpc.aio.insecure_channel(server, options=[("grpc.use_local_subchannel_pool", 1)])
        for _ in range(4)
    ]

    async def chat(n):
        provider = ("openai", "openai-responses", "anthropic")[n % 3]
        # The last token arrives after all streams have started, so all of them are open concurrently.
        model = f"{provider}/sim?tokens={tokens}&ttft_ms=8000&itl_ms=20"
        events = await api_on(channels[n % 4]).events(model)
        assert events[-1].HasField("finished")
        return "".join(event.text.text for event in events if event.HasField("text"))

    chats = [asyncio.create_task(chat(n)) for n in range(streams)]
    most = 0
    while not all(task.done() for task in chats):
        most = max(most, (await asyncio.to_thread(simulator.stats))["requests_open"])
        await asyncio.wait(chats, timeout=0.5)
    assert {task.result() for task in chats} == {expected}
    assert most > streams * 0.9
    await asyncio.to_thread(simulator.wait_until_none_open, 2)
    for channel in channels:
        await channel.close()
