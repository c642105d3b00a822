"""Texts that users read use plain words. The words on the left of the style guide's table are not among them."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
QUAINT = re.compile(
    r"""
    \b bears? \b | \b (?: tells? | told ) \b | \b (?: stands | stood ) \b (?! \ for )
    | \b holds? \b | \b held \b (?! \ back )
    | \b (?: knows | knew ) \b
    | \b asks \b (?! \ for ) | \b (?: is | are | was | were | be ) \ asked \b
    | \b wish (?: es | ed )? \b
    | \b forgets? \b | \b forgotten \b
    | \b (?: lest | shall | whosoever | whoever | of\ whom | to\ whom | for\ whom ) \b
    | \b mend (?: s | ed )? \b
    | \b (?: nobody | somebody | everybody ) \b
    | \b its \ operator \b | \b or \ no \ more \b | \b goes? \ with \b
    | \b (?: is | are ) \ taken \b | \b takes \ no (?: ne | t )? \b
    | \b gives? \ (?: free | it\ free ) \b
    | (?<! there \ ) \b is \ none \b
    | \b come \ back \ in \b | \b it \ does \ not \ help \b
    | \b heard \ of \b | \b hears? \ of \b | \b let \ go \b | \b leave \ it \ out \b
    """,
    re.VERBOSE | re.IGNORECASE,
)


def prose(markdown):
    """Return a page without its code."""
    return re.sub(r"```.*?```|`[^`]*`", "", markdown, flags=re.DOTALL)


def comments(proto):
    """Return the comments of a proto file, without the names in them."""
    return prose("\n".join(line.partition("//")[2] for line in proto.splitlines()))


def messages(source):
    """Return the strings of a module that are sentences: messages, help texts, log lines."""
    tree = ast.parse(source)
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    return "\n".join(
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and " " in node.value
        and id(node) not in docstrings
    )


def texts():
    for page in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")):
        yield page, prose(page.read_text())
    for proto in ROOT.glob("protos/tokenwire/v1/*.proto"):
        yield proto, comments(proto.read_text())
    for folder in ("client/tokenwire", "server/tokenwire_server"):
        for module in ROOT.glob(f"{folder}/**/*.py"):
            if not module.stem.endswith(("_pb2", "_pb2_grpc")):
                yield module, messages(module.read_text())


def test_texts_that_users_read_use_plain_words():
    found = [
        f"{path.relative_to(ROOT)}: {text[max(0, hit.start() - 40) : hit.end() + 40]!r}"
        for path, text in texts()
        for hit in QUAINT.finditer(text)
    ]
    assert not found, "\n".join(found)
