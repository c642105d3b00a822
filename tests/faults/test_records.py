"""Usage records at full size: 5,000 streams that end in every way, 200 whose server is killed."""

from collections import Counter

import pytest
from lost_runs import kill_and_start_again
from record_runs import end_and_check
from records_support import outcome

pytestmark = [pytest.mark.faults, pytest.mark.timeout(900)]


async def test_5_000_streams_have_5_000_records_however_they_end(
    start, api_on, own_simulator, database_url, tmp_path
):
    records = await end_and_check(
        start, api_on, own_simulator, database_url, tmp_path, count=5500, late_tokens=2
    )
    assert len(records) >= 5000
    assert Counter(map(outcome, records))["CANCELLED"] >= 1000


async def test_200_streams_of_a_killed_server_are_lost_with_figures_at_most_a_second_old(
    start, api_on, simulator, database_url, tmp_path
):
    await kill_and_start_again(start, api_on, simulator, database_url, tmp_path, 200)
