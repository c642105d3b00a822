"""Record answers of llama.cpp's own server as transcripts: `python tests/real/record.py [NAME ...]`.

The server has to be built, see `make real`. Each answer is written to
`tests/conformance/transcripts/DIALECT/llama-NAME.sse` as it came, with new ids. The text is the same each
time, so the expected events need no change.
"""

import sys
from pathlib import Path

TESTS = Path(__file__).parents[1]
sys.path[:0] = [str(TESTS), str(TESTS / "conformance")]

from llama_process import (  # noqa: E402
    PLAIN_TEMPLATE,
    TEXT_THEN_ERROR,
    THINKING_TEMPLATE,
    TOOLS_TEMPLATE,
    WRAPPED_TEMPLATE,
    LlamaServer,
)
from questions import Question, sdk_body  # noqa: E402
from transcripts_support import FOLDER  # noqa: E402

CHAT, RESPONSES, MESSAGES = "openai-chat", "openai-responses", "anthropic"
ALL = (CHAT, RESPONSES, MESSAGES)
SETTINGS = {"q": {"enum": ["a", "b"]}, "n": {"type": "integer", "minimum": 1, "maximum": 9}}
TOOL = {"weather": {"type": "object", "properties": SETTINGS, "required": list(SETTINGS)}}
THINKS = {"thinking": {"type": "enabled", "budget_tokens": 4}, "thinking_budget_tokens": 4}
PROGRESS = {"return_progress": True, "timings_per_token": True}
LOGPROBS = {"logprobs": True, "top_logprobs": 2}
EMOJI = 'root ::= "🦙é" [🐑-🐕] "ж"'

# The columns: name, template, question, dialects.
RECORDINGS = [
    ("text", PLAIN_TEMPLATE, Question("a"), (RESPONSES,)),
    ("first-character-of-several-tokens", PLAIN_TEMPLATE, Question("iq", 8), (MESSAGES,)),
    ("emoji-of-byte-tokens", PLAIN_TEMPLATE, Question("a", grammar=EMOJI), (CHAT,)),
    ("cut-in-the-first-character", PLAIN_TEMPLATE, Question("a", 2, grammar=EMOJI), (CHAT, RESPONSES)),
    ("prompt-progress", PLAIN_TEMPLATE, Question("a", 2, options=PROGRESS), (CHAT, RESPONSES)),
    ("stop-sequence", PLAIN_TEMPLATE, Question("Which pear?", stop="pear"), (MESSAGES,)),
    ("logprobs", PLAIN_TEMPLATE, Question("a", options=LOGPROBS), (CHAT,)),
    ("reasoning", THINKING_TEMPLATE, Question("s", 14, options=THINKS), (RESPONSES, MESSAGES)),
    ("two-tool-calls", TOOLS_TEMPLATE, Question("look", 99, tools=TOOL), (RESPONSES, MESSAGES)),
    ("tool-call-cut", TOOLS_TEMPLATE, Question("look", 16, tools=TOOL), (RESPONSES,)),
    ("error-after-text", WRAPPED_TEMPLATE, Question("a", 99), ALL),
]  # fmt: skip


def main() -> None:
    names = sys.argv[1:] or [name for name, *_ in RECORDINGS]
    for template in (PLAIN_TEMPLATE, THINKING_TEMPLATE, TOOLS_TEMPLATE, WRAPPED_TEMPLATE):
        options = TEXT_THEN_ERROR if template == WRAPPED_TEMPLATE else ()
        with LlamaServer(template=template, options=options) as llama:
            for name, its_template, question, dialects in RECORDINGS:
                if its_template != template or name not in names:
                    continue
                for dialect in dialects:
                    body = sdk_body(dialect, question, llama.url)
                    (FOLDER / dialect / f"llama-{name}.sse").write_bytes(body)


if __name__ == "__main__":
    main()
