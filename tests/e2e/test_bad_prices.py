"""Invalid prices, spend limits and retention: one line with the path, and no server."""

import pytest

from server_process import completed

PRICED = '[models."openai/x".prices]\n'
PRICES = "models.openai/x.prices"


@pytest.mark.parametrize(
    ("toml", "said"),
    [
        (PRICED + "input = -1\noutput = 1", f"{PRICES}.input"),
        (PRICED + "input = 1\noutput = nan", f"{PRICES}.output"),
        (PRICED + "input = 1\noutput = inf", f"{PRICES}.output"),
        (PRICED + "input = 'cheap'\noutput = 1", f"{PRICES}.input"),
        (PRICED + "input = true\noutput = 1", f"{PRICES}.input"),
        (PRICED + "input = 1\noutput = 1e30", f"{PRICES}.output"),
        (PRICED + "input = 1", f"{PRICES}.output"),
        (PRICED + "output = 1", f"{PRICES}.input"),
        (PRICED + "input = 1\noutput = 1\ncache = 1", f"{PRICES}.cache"),
        (PRICED + "input = 1\noutput = 1\nreasoning = -0.1", f"{PRICES}.reasoning"),
        ('[models."openai/x"]\nprices = 3', PRICES),
        ("[tenants.acme]\nspend_usd_per_day = -1", "tenants.acme.spend_usd_per_day"),
        ("[tenants.acme]\nspend_usd_per_month = nan", "tenants.acme.spend_usd_per_month"),
        ("[tenants.acme]\nspend_usd_per_month = 'all'", "tenants.acme.spend_usd_per_month"),
        ("[tenants.acme]\nspend_usd_per_day = true", "tenants.acme.spend_usd_per_day"),
        ("[tenants.acme]\nspend_usd_per_year = 1", "tenants.acme.spend_usd_per_year"),
        ("usage_kept_days = 0", "usage_kept_days"),
        ("usage_kept_days = -3", "usage_kept_days"),
    ],
)
def test_invalid_prices_and_limits_are_reported_in_one_line_with_their_path(tmp_path, toml, said):
    path = tmp_path / "tokenwire.toml"
    path.write_text(toml)
    result = completed("serve", "--config", path, "--demo", "--listen", "127.0.0.1:0", cwd=tmp_path)
    assert (result.returncode, result.stderr.count("\n")) == (1, 1), result.stderr
    assert said in result.stderr
    assert "Traceback" not in result.stderr
