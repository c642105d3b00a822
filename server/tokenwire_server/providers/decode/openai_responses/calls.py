"""The function calls of an OpenAI Responses answer."""

from __future__ import annotations

from ....errors import UpstreamBroken
from ....events import Delta, InvalidToolCall, ToolCall, ToolCallDelta, ToolCallStarted
from ..arguments import check_object, is_object
from ..json import join_surrogates
from . import state, wire
from .parts import Blocks

MAX_WHOLE = 3
"""Maximum number of different complete arguments of a call that are kept, besides the fragments."""
MAX_CHECKS = 8
"""Maximum number of checks whether a call is complete. Each takes up to 20 ms. After that, the call is
finished at the end of the answer."""


class Call:
    """A function call.

    The arguments may come as fragments, whole in `response.function_call_arguments.done`, whole in the
    finished item, and whole in the final response. Compatible servers leave some of these empty, or write
    `{}` there. The last one that is an object with fields counts. If there is none, the call is finished
    only at the end of the answer, because a later event may contain the arguments.
    """

    __slots__ = (
        "_blocks",
        "_checks_left",
        "_fragments",
        "_fragments_chars",
        "_is_confirmed",
        "_is_settled",
        "_is_started",
        "_namespace",
        "_whole",
        "call_id",
        "id",
        "index",
        "is_added",
        "is_complete",
        "is_cut",
        "is_done",
        "is_invalid",
        "name",
        "output_index",
    )

    kind = "function_call"

    def __init__(self, blocks: Blocks) -> None:
        self.id: str | None = None
        self.call_id = ""
        self.name = ""
        self.output_index: int | None = None
        self.index = -1
        self.is_added = False
        """Whether its start event has arrived."""
        self.is_done = False
        """Whether its end event has arrived."""
        self.is_cut = False
        """Whether the provider reported the call as cut off."""
        self.is_complete = False
        """Whether the complete call was emitted."""
        self.is_invalid = False
        """Whether the call was emitted as invalid."""
        self._blocks = blocks
        self._is_confirmed = False
        """Whether the call has the status of a finished call."""
        self._is_settled = False
        """Whether the provider reported its arguments as whole."""
        self._is_started = False
        self._namespace = ""
        self._fragments: list[str] = []
        self._fragments_chars = 0
        self._whole: list[str] = []
        """The latest whole arguments, besides the fragments."""
        self._checks_left = MAX_CHECKS

    def append(self, fragment: str, deltas: list[Delta]) -> None:
        """Add a fragment of the arguments."""
        if not fragment or self.is_complete:
            return
        self._blocks.count_chars(len(fragment))
        self._fragments.append(fragment)
        self._fragments_chars += len(fragment)
        if self._is_started:
            deltas.append(ToolCallDelta(self.index, fragment))

    def begin(self, item: wire.Item, deltas: list[Delta]) -> None:
        """Read the start of the call."""
        self.is_added = True
        self._read(item, deltas)

    def update(self, item: wire.Item, deltas: list[Delta], *, is_item: bool = True) -> None:
        """Read whole arguments. Emit the call if they have fields.

        Without `is_item`, the arguments came alone, and the id of the call may follow.
        """
        self._read(item, deltas)
        if self.is_complete:
            return
        self.is_cut = item.status == "incomplete"
        if self.is_cut:
            return
        self._is_settled = True
        self._is_confirmed |= item.status == "completed"
        if self._checks_left:
            self._checks_left -= 1
            arguments, is_valid = self._best()
            if is_valid and not _is_blank(arguments):
                self._complete(arguments, (is_item and self.id) or "", deltas)

    def finish(self, deltas: list[Delta], *, generated_id: str, is_cut: bool) -> None:
        """Finish the call at the end of the answer. `is_cut` means that the answer was cut off.

        The generated id is used if the provider sent none. Raises UpstreamBroken if the call is incomplete,
        although the answer was not cut off. Complete arguments that are not an object are a mistake of the
        model, which its caller can describe to it: that call is emitted as invalid.
        """
        if self.is_complete:
            return
        arguments, is_valid = self._best()
        if _is_blank(arguments):
            is_valid = is_valid or self._is_confirmed or (self._is_settled and not is_cut)
        is_finished = self._is_settled or (is_valid and not is_cut)
        if self.is_cut or not self.name or not is_finished:
            if not is_cut:
                raise UpstreamBroken("a function call of the provider's answer is incomplete")
        elif is_valid:
            self._complete(arguments, self.id or generated_id, deltas)
        elif not is_cut:
            self._start(self.id or generated_id, deltas)
            check = check_object(arguments)
            if check.is_cut:
                raise UpstreamBroken("the arguments of a function call are cut off")
            self.is_invalid = True
            invalid = InvalidToolCall(self.index, self.call_id, self.name, arguments, check.problem)
            deltas.append(invalid)

    def agrees(self, item: wire.Item) -> bool:
        """Return whether the content of an item may be that of this call."""
        return self.name in ("", item.name)

    def is_other(self, item: wire.Item) -> bool:
        """Return whether an item is certainly not this call."""
        return bool(self.call_id and item.call_id) and self.call_id != item.call_id

    def _read(self, item: wire.Item, deltas: list[Delta]) -> None:
        if not self.call_id and item.call_id and not self._is_started:
            self._blocks.count_chars(len(item.call_id))
            self.call_id = item.call_id
        if not self.name and item.name:
            self._blocks.count_chars(len(item.name))
            self.name = item.name
        if not self._namespace and item.namespace:
            self._blocks.count_chars(len(item.namespace))
            self._namespace = item.namespace
        arguments = item.arguments or ""
        if arguments.strip() and not self.is_complete and arguments not in self._whole:
            self._blocks.count_chars(len(arguments))
            self._whole.append(arguments)
            if len(self._whole) > MAX_WHOLE:
                self._blocks.count_chars(-len(self._whole.pop(0)))
        self._start("", deltas)

    def _start(self, fallback_id: str, deltas: list[Delta]) -> None:
        """Emit the start of the call, unless its name or its id is still unknown."""
        if self._is_started or not self.name or not (self.call_id or fallback_id):
            return
        self._is_started = True
        self.index = self._blocks.next_index()
        self.call_id = self.call_id or fallback_id
        deltas.append(ToolCallStarted(self.index, self.call_id, self.name))
        deltas.extend(ToolCallDelta(self.index, fragment) for fragment in self._fragments)

    def _best(self) -> tuple[str, bool]:
        """Return the most credible arguments so far, and whether they are an object."""
        candidates = [*reversed(self._whole), "".join(self._fragments)]
        with_fields = [text for text in candidates if not _is_blank(text)] or candidates
        for text in with_fields:
            if is_object(text):
                return text, True
        return with_fields[0], False

    def _complete(self, arguments: str, fallback_id: str, deltas: list[Delta]) -> None:
        """Emit the complete call, unless its name or its id is still unknown."""
        self._start(fallback_id, deltas)
        if not self._is_started:
            return
        streamed = join_surrogates("".join(self._fragments))
        whole = join_surrogates(arguments)
        if arguments.strip() in ("", "null"):
            whole = "{}"
        elif whole.startswith(streamed) and len(whole) > len(streamed):
            deltas.append(ToolCallDelta(self.index, whole[len(streamed) :]))
        self.is_complete = True
        namespace = state.CallState(self._namespace)
        data = state.write(self._blocks.provider, namespace) if self._namespace else b""
        deltas.append(ToolCall(self.index, self.call_id, self.name, whole, data))
        self._blocks.count_chars(-self._fragments_chars - sum(map(len, self._whole)))
        self._fragments.clear()
        self._whole.clear()


def _is_blank(arguments: str) -> bool:
    return arguments.strip() in ("", "{}", "null")
