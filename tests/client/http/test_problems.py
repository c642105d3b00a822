"""Errors that the client makes itself, as HTTP responses."""

import pytest

from tokenwire import AnswerCut, AnswerRefused, InvalidAnswer
from tokenwire.http import problem_of, status_of


@pytest.mark.parametrize("kind", [AnswerCut, AnswerRefused, InvalidAnswer])
def test_an_answer_that_cannot_be_used_does_not_look_as_if_a_retry_were_free(kind):
    error = kind("the model refused to answer: no")
    assert status_of(error) == status_of(InvalidAnswer("invalid", reason="INVALID_ANSWER")) == 422
    assert problem_of(error)["detail"] == "the model refused to answer: no"
