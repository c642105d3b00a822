"""The state of a conversation between two prompts. Pure, except that `save` writes a file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TypedDict, Unpack

from google.protobuf.json_format import MessageToJson

from tokenwire.v1.chat_pb2 import ROLE_ASSISTANT, ROLE_TOOL, ROLE_USER, Message, Part

from ...messages import assistant
from ..commands.chat_request import RequestOptions, chat_request
from ..terminal import one_line

_HEADINGS = {ROLE_USER: "User", ROLE_ASSISTANT: "Model", ROLE_TOOL: "Tool"}


class ChangedOptions(TypedDict, total=False):
    """Options that change during a conversation."""

    model: str
    system: str | None


class Conversation:
    """The messages so far, and the options of the next request.

    Documents, images and recordings of the options are sent with the first prompt that is answered.
    """

    def __init__(self, options: RequestOptions) -> None:
        self.options = options
        self.messages: list[Message] = []
        self._saved: set[Path] = set()

    def next_request(self, prompt: str) -> RequestOptions:
        """Return the request for a prompt."""
        return replace(self.options, prompt=prompt, history=tuple(self.messages))

    def add(self, request: RequestOptions, answer: Message) -> bool:
        """Add the prompt of a request and its answer, unchanged, with the provider's state in it.

        Return False, and add nothing, if the answer has no parts: a provider accepts no empty message.
        """
        if not answer.parts:
            return False
        self.messages += [chat_request(request).messages[-1], answer]
        self.options = replace(
            self.options, documents=(), images=(), recordings=(), standard_input=None
        )
        return True

    def add_partial(self, request: RequestOptions, answer: Message) -> bool:
        """Add the text of an answer that was stopped. Return False, and add nothing, if it has none.

        The provider's state of an incomplete answer is not valid, so only the text is kept.
        """
        text = "".join(part.text for part in answer.parts)
        return bool(text.strip()) and self.add(request, assistant(text))

    def set(self, **options: Unpack[ChangedOptions]) -> None:
        """Change options of the next requests."""
        self.options = replace(self.options, **options)

    def clear(self) -> None:
        """Remove all messages."""
        self.messages.clear()

    def save(self, name: str) -> Path:
        """Write the conversation to a file, and return its path.

        It is a ChatRequest in JSON if the name ends with .json, otherwise Markdown. An existing file is
        replaced only if this conversation has written it.

        Raises:
            OSError: the file exists, or it cannot be written.
        """
        path = Path(name).expanduser()
        text = self._as_json() if path.suffix == ".json" else self._as_markdown()
        mode = "w" if path.absolute() in self._saved else "x"
        with path.open(mode, encoding="utf-8") as file:
            file.write(text)
        self._saved.add(path.absolute())
        return path

    def _as_json(self) -> str:
        request = chat_request(self.next_request(""))
        del request.messages[-1]
        return MessageToJson(request, ensure_ascii=False) + "\n"

    def _as_markdown(self) -> str:
        blocks = [f"# Conversation with {self.options.model}"]
        if self.options.system is not None:
            blocks += ["## System", self.options.system]
        for message in self.messages:
            blocks.append(f"## {_HEADINGS.get(message.role, 'Message')}")
            blocks += [text for part in message.parts if (text := _part_text(part))]
        return "\n\n".join(blocks) + "\n"


def _part_text(part: Part) -> str:
    """Return a part of a message as text. Reasoning is left out."""
    match part.WhichOneof("content"):
        case "text":
            return part.text.strip("\n")
        case "tool_call":
            return f"[tool call: {part.tool_call.name}({part.tool_call.arguments_json})]"
        case "tool_result":
            return f"[tool result: {part.tool_result.text}]"
        case "image" | "document" | "audio" as kind:
            content = getattr(part, kind)
            where = getattr(content, "uri", "") or f"{len(content.data)} bytes"
            title = getattr(content, "title", "")
            return "[" + one_line(" ".join(filter(None, (kind, title, where)))) + "]"
    return ""
