"""The stages of an answer, in order."""

from tokenwire_server.content.stages import Stages
from tokenwire_server.errors import InternalFault
from tokenwire_server.events import FinishReason, TextDelta
from tokenwire_server.providers.decode.base import Complete

STOP = Complete(FinishReason.STOP)


class Doubling:
    """A stage that passes each entry twice, and one more at the end."""

    end = failure = None

    def feed(self, entries):
        return [entry for entry in entries for _ in range(2)]

    def check(self):
        return None

    def finish(self, end):
        return [TextDelta("end", 0)]


class Failing(Doubling):
    def finish(self, end):
        raise ValueError("a bug")


def stages_of(*stages):
    log, faults = [], []

    def on_fault(error):
        faults.append(error)
        return InternalFault("id")

    return Stages(stages, log.append, run_check=None, on_fault=on_fault), log, faults


def test_what_a_stage_adds_passes_the_stages_after_it():
    stages, log, _ = stages_of(Doubling(), Doubling())
    stages.append(TextDelta("a", 0))
    stages.finish(STOP)
    stages.finish(STOP)
    assert [entry.text for entry in log] == ["a"] * 4 + ["end"] * 3


def test_a_stage_that_fails_at_the_end_makes_the_answer_an_error_and_raises_nothing():
    stages, log, faults = stages_of(Failing(), Doubling())
    stages.finish(STOP)
    assert isinstance(stages.failure, InternalFault)
    assert [str(fault) for fault in faults] == ["a bug"]
    assert [entry.text for entry in log] == ["end"]
