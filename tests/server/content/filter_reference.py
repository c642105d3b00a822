"""What a filter must do, in a few lines: for each position of the whole text, try each rule in turn."""

import re

import re2

from tokenwire_server.content.filters.folding import MAX_IGNORED, Folding


def whole(text, rules, max_chars, look_alikes=None):
    """Return what of the whole text is shown, and the findings as (count, first position) by rule."""
    folded, origin = fold(text, Folding(look_alikes))
    attempts = [(rule, attempt) for rule in rules for attempt in attempts_of(rule)]
    shown, findings, at, done = "", {}, 0, 0
    while at < len(folded):
        beyond = origin[at] + max_chars
        limit = next((i for i in range(at, len(folded)) if origin[i] >= beyond), len(folded))
        ends = ((rule, attempt(folded, at, limit)) for rule, attempt in attempts)
        rule, end = next((each for each in ends if each[1]), (None, 0))
        if rule is None:
            at += 1
            continue
        first, last = origin[at], origin[end - 1] + 1
        count, position = findings.get(rule.name, (0, first))
        findings[rule.name] = (count + 1, position)
        shown += text[done:first]
        if rule.action == "block":
            return shown, findings
        shown += rule.replacement if rule.action == "redact" else text[first:last]
        done = last
        at = next((i for i in range(end, len(folded)) if origin[i] >= done), len(folded))
    return shown + text[done:], findings


def fold(text, folding):
    """Return the folded text, and the index of the original character of each of its characters."""
    folded, origin, ignored = "", [], 0
    for index, character in enumerate(text):
        part = folding.character(character)
        ignored = 0 if part else ignored + 1
        if ignored == MAX_IGNORED:
            part, ignored = "\ufffd", 0
        folded += part
        origin += [index] * len(part)
    return folded, origin


def attempts_of(rule):
    for pattern in rule.patterns:
        yield pattern_attempt(pattern, rule.ignore_case)
    if rule.words:
        yield words_attempt(rule.words, rule.ignore_case)
    if rule.ready_made == "card_number":
        yield card_number


def pattern_attempt(pattern, ignore_case):
    options = re2.Options()
    options.case_sensitive = not ignore_case
    compiled = re2.compile(pattern, options)

    def attempt(text, start, limit):
        found = compiled.match(text, start, limit)
        return found and found.end()

    return attempt


def words_attempt(words, ignore_case):
    flags = re.IGNORECASE * ignore_case
    patterns = [
        re.compile(r"\s+".join(map(re.escape, word.split())), flags)
        for word in sorted(map(Folding().text, words), key=len, reverse=True)
    ]

    def is_word(character):
        return character.isalnum() or character == "_"

    def is_within(text, at):
        return 0 < at < len(text) and is_word(text[at - 1]) and is_word(text[at])

    def attempt(text, start, limit):
        for pattern in patterns:
            found = pattern.match(text, start)
            if not found or found.end() > limit:
                continue
            if not is_within(text, start) and not is_within(text, found.end()):
                return found.end()
        return None

    return attempt


_CARD_NUMBER = re2.compile(r"\b[1-9](?:[ -]?[0-9]){12,18}\b")


def card_number(text, start, limit):
    found = _CARD_NUMBER.match(text, start, limit)
    ends = range(found.end(), start, -1) if found else ()
    for end in ends:
        digits = [int(digit) for digit in text[start:end] if digit.isdigit()]
        doubled = [digit * 2 - 9 * (digit > 4) for digit in digits[-2::-2]]
        is_whole = end == found.end() or text[end] in " -"
        if (
            len(digits) >= 13
            and text[end - 1].isdigit()
            and is_whole
            and (sum(doubled) + sum(digits[-1::-2])) % 10 == 0
        ):
            return end
    return None
