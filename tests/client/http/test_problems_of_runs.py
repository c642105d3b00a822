import pytest

import tokenwire
from tokenwire.http import status_of
from tokenwire.http.problems import problem_of


@pytest.mark.parametrize(
    ("kind", "status", "text"),
    [
        (tokenwire.ToolCostExceeded, 402, "limit of cost"),
        (tokenwire.ToolFailed, 500, "a tool failed"),
        (tokenwire.ToolRoundsExceeded, 502, "after the last round"),
        (tokenwire.ToolTimeExceeded, 504, "time limit"),
    ],
)
def test_errors_of_a_run_have_their_own_status_and_text(kind, status, text):
    error = kind("the tool pay failed: ConnectionError: 10.0.0.7")
    assert status_of(error) == status
    problem = problem_of(error)
    assert text in problem["detail"]
    assert "10.0.0.7" not in str(problem)
