"""The request that continues an answer that was cut off. Pure: no I/O, no gRPC."""

from __future__ import annotations

from tokenwire.v1.chat_pb2 import ROLE_ASSISTANT, ChatRequest, Message
from tokenwire.v1.model_pb2 import MODEL_CAPABILITY_PREFILL, Model


class CannotContinue(ValueError):
    """An answer that was cut off cannot be continued. The message says why."""


def continuation_of(request: ChatRequest, message: Message) -> ChatRequest:
    """Return a copy of the request that ends with the message that arrived, so that the model continues it.

    If the request ends with text of the assistant, such as that of an earlier continuation, the text that
    arrived is appended to the same message, because models continue only the last one.
    White space at the end of its text is left out: models begin the next word with it. The copy has no
    request_id, because it is another request; no fallback_models, because they might begin a new answer; and
    no response_format, because it describes the whole answer, and would be applied to the rest alone.

    Raises:
        CannotContinue: the message has no text, or has more than text.
    """
    text = _text_of(message)
    copy = ChatRequest()
    copy.CopyFrom(request)
    copy.ClearField("request_id")
    copy.ClearField("fallback_models")
    copy.ClearField("response_format")
    last = copy.messages[-1] if copy.messages else Message()
    if (
        last.role == ROLE_ASSISTANT
        and last.parts
        and last.parts[-1].WhichOneof("content") == "text"
    ):
        last.parts[-1].text += text
    else:
        copy.messages.add(role=ROLE_ASSISTANT).parts.add(text=text)
    return copy


def check_model(model: Model) -> None:
    """Raise CannotContinue unless the model has the capability PREFILL."""
    if MODEL_CAPABILITY_PREFILL not in model.capabilities:
        raise CannotContinue(
            f"{model.id} cannot continue an answer: it does not have the capability prefill in the server's "
            "configuration"
        )


def _text_of(message: Message) -> str:
    """Return the text of a message, without white space at its end. Raises CannotContinue."""
    for part in message.parts:
        kind = part.WhichOneof("content")
        if kind != "text":
            raise CannotContinue(f"the answer has a part {kind}: only text can be continued")
    text = "".join(part.text for part in message.parts).rstrip()
    if not text:
        raise CannotContinue("no text of the answer arrived: send the request again")
    return text
