"""Content filters: rules that block, redact or report text, in a stream as in the whole text.

The package google-re2 is loaded when the first rules are compiled.
"""

from .compiling import CompiledFilter, compile_rules
from .filter import Filter, Finding
from .folding import LATIN_LOOK_ALIKES
from .rules import Action, ReadyMade, Rule, RuleError

__all__ = [
    "LATIN_LOOK_ALIKES",
    "Action",
    "CompiledFilter",
    "Filter",
    "Finding",
    "ReadyMade",
    "Rule",
    "RuleError",
    "compile_rules",
]
