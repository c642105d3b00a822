"""A slow reader of JSON that reads one character at a time, written without the code that it tests."""

import itertools

from hypothesis import strategies as st

SPACE = " \t\n\r"
DIGITS = "0123456789"


class Reference:
    """The grammar of RFC 8259 as a list of what is expected next. The last one comes first."""

    def __init__(self):
        self._expected = ["end", "value"]
        self.is_invalid = False
        self._ended = 0

    @property
    def is_complete(self):
        return self._expected == ["end"] and not self.is_invalid

    @property
    def is_over(self):
        return self.is_complete or self.is_invalid

    def feed(self, char):
        """Return how many values end with this character or, if they are numbers, before it."""
        self._ended = 0
        while not self._accept(char):
            pass
        return self._ended

    def finish(self):
        """Return 1 if a number ends with the text."""
        return int(
            self._expected[-1:] in (["int"], ["zero"], ["frac"], ["exp"])
            and len(self._expected) == 2
        )

    @property
    def completion(self):
        """Text that completes a document."""
        endings = {
            "value": "0", "value]": "0", "name": '"":0}', "name}": "}", ":": ":", ",]": "]", ",}": "}",
            "string": '"', "escape": "n", "hex": "0", "int": " ", "zero": " ", "frac": " ", "exp": " ",
            "sign": "0", "point": "0", "e": "0", "esign": "0", "count": "", "end": "",
        }  # fmt: skip
        text = ""
        for expected in reversed(self._expected):
            text += endings.get(expected, expected[1:] if expected.startswith("=") else "")
        return text

    def _accept(self, char):
        """Accept a character. Return False if something ended before it, and it must be tried again."""
        expected = self._expected.pop()
        put = self._expected.extend
        if (
            expected in ("value", "value]", "name", "name}", ":", ",]", ",}", "end")
            and char in SPACE
        ):
            put([expected])
            return True
        match expected:
            case "value" | "value]":
                if char == "]" and expected == "value]":
                    self._expected.pop()  # what would follow an element
                    self._ended += 1
                elif char == "[":
                    put([",]", "value]"])
                elif char == "{":
                    put(["name}"])
                elif char == '"':
                    put(["count", "string"])
                elif char in "tfn":
                    rest = {"t": "rue", "f": "alse", "n": "ull"}[char]
                    put(["count", "=" + rest])
                elif char in DIGITS or char == "-":
                    put(["sign" if char == "-" else "zero" if char == "0" else "int"])
                else:
                    return self._refuse(expected)
            case "name" | "name}":
                if char == '"':
                    put([",}", "value", ":", "string"])
                elif char == "}" and expected == "name}":
                    self._ended += 1
                else:
                    return self._refuse(expected)
            case ":":
                if char != ":":
                    return self._refuse(expected)
            case ",]" | ",}":
                if char == ",":
                    put([",]", "value"] if expected == ",]" else ["name"])
                elif char == expected[1]:
                    self._ended += 1
                else:
                    return self._refuse(expected)
            case "string":
                if char == "\\":
                    put(["string", "escape"])
                elif char < " ":
                    return self._refuse(expected)
                elif char != '"':
                    put(["string"])
                else:
                    self._count()
            case "escape":
                if char == "u":
                    put(["hex"] * 4)
                elif char not in '"\\/bfnrt':
                    return self._refuse(expected)
            case "hex":
                if char not in "0123456789abcdefABCDEF":
                    return self._refuse(expected)
            case "sign":
                if char not in DIGITS:
                    return self._refuse(expected)
                put(["zero" if char == "0" else "int"])
            case "zero" | "int" | "frac":
                if char in DIGITS and expected != "zero":
                    put([expected])
                elif char == "." and expected != "frac":
                    put(["point"])
                elif char in "eE":
                    put(["e"])
                else:
                    return self._end_number(char, expected)
            case "point":
                if char not in DIGITS:
                    return self._refuse(expected)
                put(["frac"])
            case "e":
                if char in "+-":
                    put(["esign"])
                elif char in DIGITS:
                    put(["exp"])
                else:
                    return self._refuse(expected)
            case "esign":
                if char not in DIGITS:
                    return self._refuse(expected)
                put(["exp"])
            case "exp":
                if char not in DIGITS:
                    return self._end_number(char, expected)
                put(["exp"])
            case "end":
                return self._refuse(expected)
            case _:  # the rest of a literal
                if char != expected[1]:
                    return self._refuse(expected)
                if expected[2:]:
                    put(["=" + expected[2:]])
                else:
                    self._count()
        return True

    def _count(self):
        """Count a string or literal that is a value, not a name."""
        if self._expected[-1:] == ["count"]:
            self._expected.pop()
            self._ended += 1

    def _end_number(self, char, expected):
        if char not in SPACE + ",]}":
            return self._refuse(expected)
        self._ended += 1
        return False

    def _refuse(self, expected):
        self._expected.append(expected)
        self.is_invalid = True
        return True


def completed_values(value, pointer=""):
    """Return the pointers of all values, each container after what is inside it."""
    members = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    inner = [p for name, v in members for p in completed_values(v, f"{pointer}/{_escape(name)}")]
    return [*inner, pointer]


def at_pointer(value, pointer):
    for part in pointer.split("/")[1:]:
        step = part.replace("~1", "/").replace("~0", "~")
        value = value[int(step) if isinstance(value, list) else step]
    return value


def pieces_of(text, data):
    """Split a text anywhere."""
    cuts = data.draw(st.lists(st.integers(0, len(text)), max_size=12))
    edges = [0, *sorted(cuts), len(text)]
    return [text[start:end] for start, end in itertools.pairwise(edges)]


def _escape(name):
    return str(name).replace("~", "~0").replace("/", "~1")
