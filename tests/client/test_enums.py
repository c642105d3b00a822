import copy
import pickle

import pytest

import tokenwire
from tokenwire.enums import ApiEnum
from tokenwire.v1 import chat_pb2, event_pb2, usage_pb2

PROTOS = {
    tokenwire.FinishReason: (event_pb2.FinishReason, "FINISH_REASON_"),
    tokenwire.NoticeKind: (event_pb2.NoticeKind, "NOTICE_KIND_"),
    tokenwire.Role: (chat_pb2.Role, "ROLE_"),
    tokenwire.StreamState: (chat_pb2.StreamState, "STREAM_STATE_"),
    tokenwire.UsageOutcome: (usage_pb2.UsageOutcome, "USAGE_OUTCOME_"),
}


def test_every_enum_is_compared_with_its_proto():
    assert set(PROTOS) == set(ApiEnum.__subclasses__())


@pytest.mark.parametrize("enum", PROTOS, ids=lambda enum: enum.__name__)
def test_an_enum_has_the_names_and_the_numbers_of_its_proto(enum):
    proto, prefix = PROTOS[enum]
    assert {prefix + each.name: each.value for each in enum} == dict(proto.items())


def test_a_member_is_equal_to_the_number_in_a_message_and_shows_its_name():
    finished = event_pb2.Finished(reason=event_pb2.FINISH_REASON_MAX_TOKENS)
    reason = tokenwire.FinishReason(finished.reason)

    assert finished.reason == tokenwire.FinishReason.MAX_TOKENS
    assert reason is tokenwire.FinishReason.MAX_TOKENS
    assert str(reason) == f"{reason}" == f"{reason:s}" == "MAX_TOKENS"
    assert f"{reason:>12}" == "  MAX_TOKENS"
    assert repr(reason) == "<FinishReason.MAX_TOKENS: 3>"
    assert {finished.reason: 1}[reason] == 1
    assert event_pb2.Finished(reason=reason) == finished


@pytest.mark.parametrize("number", [99, -1, 2**31 - 1])
def test_a_number_of_a_newer_server_is_a_member_with_a_name(number):
    reason = tokenwire.FinishReason(number)

    assert (reason, str(reason), reason.is_known) == (number, f"UNKNOWN_{number}", False)
    assert reason == tokenwire.FinishReason(number) != tokenwire.FinishReason.STOP
    assert copy.copy(reason) == pickle.loads(pickle.dumps(reason)) == reason
    assert reason not in list(tokenwire.FinishReason)
    assert tokenwire.FinishReason.STOP.is_known


def test_what_is_no_number_is_no_member():
    with pytest.raises(ValueError, match="'STOP' is not a valid FinishReason"):
        tokenwire.FinishReason("STOP")
