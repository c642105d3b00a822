"""What a filter shows, holds back and reports."""

import sys
from functools import partial
from types import SimpleNamespace

import pytest
import re2

from tokenwire_server.content.filters import LATIN_LOOK_ALIKES, Rule, RuleError, compile_rules
from tokenwire_server.content.filters.matcher import Expression


def rule(*patterns, name="rule", action="redact", replacement="***", **kind):
    return Rule(name=name, action=action, replacement=replacement, patterns=patterns, **kind)


def shown(rules, *pieces, **options):
    content = compile_rules(rules, **options).new()
    return [content.feed(piece) for piece in pieces] + [content.finish()]


def whole(rules, text, **options):
    return "".join(shown(rules, text, **options))


def findings(content):
    return {name: (each.count, each.first_position) for name, each in content.findings.items()}


# What is shown when


def test_text_is_shown_at_once_except_what_may_be_the_beginning_of_a_match():
    rules = [rule("secret")]
    assert shown(rules, "a se", "em", "ly ", "sec", "ret", "!") == [
        "a ",
        "seem",
        "ly ",
        "",
        "***",
        "!",
        "",
    ]


def test_a_complete_match_does_not_wait_for_more_text():
    assert shown([rule("secret")], "secret") == ["***", ""]
    longer = rule("s[0-9]+", r"secret\w*!", "second", name="longer")
    assert shown([longer], "a second") == ["a ***", ""]
    assert shown([longer], "a s1") == ["a ", "***"]
    assert shown([rule("secret"), longer], "a secret") == ["a ", "***"]
    assert shown([rule("secret?", "secre[t ]{2}")], "a secret") == ["a ", "***"]


def test_a_match_that_can_become_longer_waits():
    assert shown([rule(r"\d+")], "1", "2", "3 ", "4") == ["", "", "*** ", "", "***"]


def test_a_word_boundary_waits_for_the_next_character():
    assert shown([rule(r"\bcat\b")], "cat", "s", " cat", ".", "cat") == [
        "",
        "cats",
        " ",
        "***.",
        "",
        "***",
    ]


def test_a_condition_on_the_start_or_the_end_of_the_text_means_the_whole_text():
    assert shown([rule("^a"), rule("b$", name="end")], "a", "a", "b", "b") == [
        "***",
        "a",
        "",
        "b",
        "***",
    ]


def test_what_was_shown_counts_for_word_boundaries():
    assert shown([rule(r"\bcat")], "bob", "cat", " cat") == ["bob", "cat", " ***", ""]


def test_no_more_is_held_back_than_the_longest_match():
    content = compile_rules([rule("a[^b]*b")], max_match_chars=10).new()
    for _ in range(20):
        content.feed("aaaa")
        assert content.held_chars <= 10
    assert content.held_chars == 10


def test_a_longer_match_is_cut_or_not_found():
    assert whole([rule("a+")], "a" * 25, max_match_chars=10) == "***" * 3
    assert whole([rule("a[^b]*b")], "ac" + "c" * 8 + "b", max_match_chars=10) == "acccccccccb"
    assert whole([rule("a[^b]*b")], "ac" + "c" * 7 + "b", max_match_chars=10) == "***"


def test_release_shows_the_beginning_of_a_match_and_matching_continues_after_it():
    content = compile_rules([rule("secret")]).new()
    assert content.feed("the sec") == "the "
    assert content.held_chars == 3
    assert content.release() == "sec"
    assert content.held_chars == 0
    assert content.feed("ret secret") == "ret ***"


def test_release_does_not_show_a_match_that_is_complete():
    content = compile_rules([rule(ready_made="email")]).new()
    assert content.feed("bob@example.org") == ""
    assert content.release() == "***"


# Which match, and what happens to it


def test_the_leftmost_match_counts_and_at_one_start_the_first_rule():
    rules = [rule("bc", name="b", replacement="1"), rule("abcd", "ab", name="a", replacement="2")]
    assert whole(rules, "abc") == "2c"
    rules = [rule("ab", name="short", replacement="1"), rule("abcd", name="long", replacement="2")]
    assert whole(rules, "abcd") == "1cd"
    assert whole(rules[::-1], "abcd") == "2"
    assert whole(rules[::-1], "abce") == "1ce"


def test_after_a_match_that_is_not_a_whole_word_the_next_rules_count():
    rules = [
        rule(words=("cat",), name="word", replacement="1"),
        rule("cap", name="other", replacement="2"),
        rule("ca", name="next", replacement="3"),
    ]
    assert whole(rules, "catЖ cat cap") == "3tЖ 1 2"
    assert whole(rules[:2], "catЖ") == "catЖ"


def test_block_shows_nothing_from_the_start_of_the_match_on():
    content = compile_rules([rule("stop", action="block")]).new()
    assert content.feed("go, st") == "go, "
    assert not content.is_blocked
    assert content.feed("op here") == ""
    assert content.is_blocked
    assert content.held_chars == 0
    assert (content.feed("more"), content.release(), content.finish()) == ("", "", "")


def test_report_changes_nothing():
    content = compile_rules([rule("ab", action="report")]).new()
    assert content.feed("abab a") + content.feed("b") + content.finish() == "abab ab"
    assert findings(content) == {"rule": (3, 0)}


def test_findings_count_by_rule_and_have_the_position_in_the_original_text():
    content = compile_rules(
        [rule("b+", name="b", replacement=""), rule("x", name="x"), rule("z", name="z")]
    ).new()
    for piece in "abbb", "ba", "xbbx":
        content.feed(piece)
    content.finish()
    assert findings(content) == {"b": (2, 1), "x": (2, 6)}


def test_a_stream_has_its_own_state():
    compiled = compile_rules([rule("secret")])
    one, other = compiled.new(), compiled.new()
    assert one.feed("sec") == ""
    assert other.feed("ret") == "ret"
    assert one.feed("ret") == "***"
    assert not other.findings


# Folding


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("café", "***"),
        ("cafe\u0301!", "***\u0301!"),  # the accent comes after the match
        ("c\u0301afe", "***"),
        ("c\u200ba\u200df\u00ade", "***"),
        ("c\u3164a\u115ff\u1160e\uffa0", "***\uffa0"),  # Hangul fillers, which are letters
        ("c\U000e0002a\U000e0041fe", "***"),  # a tag, and a code point that is reserved for one
        ("\u200bcafe\u200b", "\u200b***\u200b"),
        ("\uff43\uff41\uff46\uff45", "***"),
        ("ca\ufb01e", "ca\ufb01e"),
        ("\U0001d41cafe", "***"),
        ("саfе", "***"),  # three of them are Cyrillic
        ("\ud800cafe\udfff", "\ud800***\udfff"),
    ],
)
def test_characters_that_look_alike_match(text, expected):
    for pieces in [text], list(text):
        assert "".join(shown([rule("cafe")], *pieces, look_alikes=LATIN_LOOK_ALIKES)) == expected


def test_an_original_character_is_replaced_as_a_whole():
    assert whole([rule("f")], "\ufb03x") == "***x"  # it folds to ffi
    assert whole([rule("fix")], "\ufb01x") == "***"


def test_patterns_and_words_are_folded_as_the_text_is():
    assert whole([rule("é+[äöü][à-ü]")], "éeuü") == "***"
    assert whole([rule(words=("Müller",))], "Mu\u0308ller Muller") == "*** ***"
    assert whole([rule("한[가-힣]")], "한국") == "***"
    assert whole([rule("привет")], "привет", look_alikes=LATIN_LOOK_ALIKES) == "***"


def test_case_counts_unless_it_is_ignored():
    assert whole([rule("stop")], "STOP stop") == "STOP ***"
    assert whole([rule("stop", ignore_case=True)], "STOP stop") == "*** ***"
    assert whole([rule("(?i:s)top")], "STOP Stop") == "STOP ***"
    assert whole([rule(words=("über",), ignore_case=True)], "ÜBER") == "***"
    assert whole([rule(r"(?i)\p{Lu}x"), rule(r"\p{Lu}y", name="b")], "ax ay") == "*** ay"
    assert whole([rule(r"\p{Lu}x", ignore_case=True)], "ax") == "***"


def test_a_brace_that_begins_no_repetition_is_a_character():
    assert whole([rule("{a}{,2}a{")], "{a}{,2}a{") == "***"


# Words


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a cat.", "a ***."),
        ("cats cat_ 1cat", "cats cat_ 1cat"),
        ("catЖ Жcat Ж cat Ж", "catЖ Жcat Ж *** Ж"),
        ("new york", "***"),
        ("new \n york", "***"),
        ("new\vyork new\x1f\x85york new\u2028\u1680york new\xa0\u3000york", "*** *** *** ***"),
        ("new yorkЖ", "*** yorkЖ"),
        ("new yorks", "*** yorks"),
        ("C++ C+++ C++x xC++", "*** ***+ ***x xC++"),
        ("Жук жук Жука", "*** жук Жука"),
    ],
)
def test_words_match_as_a_whole(text, expected):
    rules = [rule(words=("cat", "new", "new york", "C++", "Жук"))]
    assert whole(rules, text) == expected
    assert "".join(shown(rules, *text)) == expected


# Repetition


def test_a_unit_that_repeats_too_often_blocks_the_rest():
    content = compile_rules([Rule(name="loop", action="block", max_repeats=10)]).new()
    text = "Once upon a time. " + "again and again, " * 100
    output = "".join(content.feed(text[at : at + 7]) for at in range(0, len(text), 7))
    assert content.is_blocked
    assert output == text[:256]
    assert findings(content) == {"loop": (1, 256)}


def test_repetition_that_is_not_longer_than_the_limit_is_shown():
    content = compile_rules([Rule(name="loop", action="block", max_repeats=16)]).new()
    text = "0123456789abcdef" * 16
    assert content.feed(text) == text
    content = compile_rules([Rule(name="loop", action="block", max_repeats=15)]).new()
    content.feed(text)
    assert content.is_blocked


def test_repetition_that_was_interrupted_starts_again():
    content = compile_rules([Rule(name="loop", action="block", max_repeats=200)]).new()
    text = "ab" * 128 + "x" + "ab" * 150
    assert content.feed(text) == text
    content.feed("ab" * 200)
    assert content.is_blocked


def test_repetition_is_reported_once_until_it_ends():
    content = compile_rules([Rule(name="loop", action="report", max_repeats=10)]).new()
    text = "ab" * 1024 + "The end of the loop. " + "".join(map(str, range(400))) + "xyz" * 1000
    assert content.feed(text) + content.finish() == text
    assert findings(content) == {"loop": (2, 256)}


def test_a_match_that_began_before_the_repetition_is_acted_on():
    rules = [rule(r"x\d+"), Rule(name="loop", action="block", max_repeats=10)]
    content = compile_rules(rules).new()
    assert content.feed("a" * 200 + "x" + "1" * 400) == "a" * 200 + "***"
    assert content.is_blocked


# Rules that cannot be used


@pytest.mark.parametrize(
    ("pattern", "column", "problem"),
    [
        ("a*", None, "empty text"),
        (r"\b", None, "empty text"),
        ("a|b?", None, "empty text"),
        ("ab(c", 3, "'(' without ')'"),
        ("ab)c", 3, "')' without '('"),
        ("a[bc", 2, "'[' without ']'"),
        ("ab(?=c)", 3, "look-ahead is not supported"),
        ("(?<!a)b", 1, "look-behind is not supported"),
        (r"(a)\1", 4, "back-references"),
        (r"a\Z", 2, r"write \z"),
        (r"a\C", 2, "not supported"),
        ("a\\", 2, "'\\' at the end"),
        ("*a", 1, "repetition of nothing"),
        ("{2}a", 1, "repetition of nothing"),
        ("a|(?i){2,}", 7, "repetition of nothing"),
        ("a**", 3, "repetition of a repetition"),
        ("a++", 3, "possessive"),
        (r"a\b+", 2, "repetition of an assertion"),
        ("a{3,2}", 2, "wrong order"),
        ("[b-a]", 2, "not a range"),
        (r"\x{110000}", 1, "not a Unicode character"),
        (r"\p{Klingon}", None, "RE2 refuses it"),
        ("a{2000}", None, "more than max_match_chars"),
        ("a{300}", None, "more than max_match_chars"),
        ("(?:ab?){20}{2}", 12, "repetition of a repetition"),
        ("(?:(?:ab?){11}){10}", 16, "nested counted repetitions of 110 copies"),
        (r"(?:\pL{90}|\pN)(?:\pL\PN){50}", None, "instructions"),
        ("(" * 60 + "a" + ")" * 60, 51, "nested groups"),
        ("a" * 2001, None, "2001 characters"),
        ("[\ufb01]", 2, "not one character"),
        ("[\u0301]", 1, "ignored"),
    ],
)
def test_a_pattern_that_cannot_be_used_is_refused_with_its_place(pattern, column, problem):
    with pytest.raises(RuleError) as raised:
        compile_rules([rule("fine", pattern, name="mine")])
    error = raised.value
    assert (error.rule, error.place, error.column) == ("mine", "patterns[1]", column)
    assert problem in error.problem
    assert "mine" in str(error)


@pytest.mark.parametrize(
    ("rules", "place"),
    [
        ([Rule(name="a", action="block")], "patterns/words/ready_made/max_repeats"),
        ([rule("a", words=("b",))], "patterns/words/ready_made/max_repeats"),
        ([rule("a"), rule("b")], "name"),
        ([rule(words=("a", "\u0301 "))], "words[1]"),
        ([rule(words=("a" * 300,))], "words[0]"),
        ([Rule(name="a", action="redact", max_repeats=3)], "action"),
        ([Rule(name="a", action="block", max_repeats=0)], "max_repeats"),
    ],
)
def test_a_rule_that_cannot_be_used_is_refused_with_its_place(rules, place):
    with pytest.raises(RuleError) as raised:
        compile_rules(rules)
    assert raised.value.place == place


@pytest.mark.parametrize("look_alikes", [{"0": "o"}, {"сс": "c"}, {"с": ""}])
def test_look_alikes_are_single_characters_that_are_not_ascii(look_alikes):
    with pytest.raises(ValueError, match="look-alike"):
        compile_rules([rule("a")], look_alikes=look_alikes)


def test_expressions_are_found_without_the_inside_of_google_re2():
    regexp = re2.compile(b"a+b")
    public = SimpleNamespace(
        search=regexp.search, match=regexp.match, programsize=regexp.programsize
    )
    for expression in Expression(regexp), Expression(public):
        assert list(expression.search(b"xaab", 0, 4)) == [(1, 4)]
        assert list(expression.search(b"xaab", 2, 4)) == [(2, 4)]
        assert list(expression.search(b"xaab", 0, 3)) == [(-1, -1)]
        assert list(expression.match(b"xaab", 1, 4)) == [(1, 4)]
        assert list(expression.match(b"xaab", 0, 4)) == [(-1, -1)]
    assert isinstance(Expression(regexp).search, partial), "it calls RE2 directly"


def test_without_the_extra_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "re2", None)
    with pytest.raises(ImportError, match=r'pip install "tokenwire-server\[filters\]"'):
        compile_rules([rule("a")])
