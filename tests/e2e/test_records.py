"""Each stream has exactly one usage record with correct figures, however it ends."""

from record_runs import end_and_check


async def test_every_stream_has_one_record_however_it_ends(
    start, api_on, own_simulator, database_url, tmp_path
):
    records = await end_and_check(start, api_on, own_simulator, database_url, tmp_path, count=500)
    assert len(records) > 400
