"""Regular expressions over tags: a small language that cannot explode.

What passes here is evaluated by Postgres as an automaton, without going back. So no back-references and no looking around, and an
expression may stand for so many characters at the most: Postgres takes the room for its repetitions when it compiles them. What counts
is what was measured to cost time: a part that may be left out or repeated makes the automaton wider for every one behind it.
"""

from dataclasses import dataclass

LENGTH = 256
COST = 256
DEPTH = 10
_PLAIN = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_%:@/=-")
_ESCAPED = frozenset("ds\\.+*?()[]{}|^$-/w")
_CLASSES = frozenset("dsw")
_FACTOR = {"*": 4, "+": 2, "?": 4}


class PatternError(Exception):
    """What is wrong with an expression, and at which of its characters; `too_large`: it is well formed, but would cost too much."""

    def __init__(self, at: int, *, too_large: bool = False) -> None:
        super().__init__(at)
        self.at = at
        self.too_large = too_large


def check(pattern: str) -> str:
    """The expression as it is stored, without the anchors that it may have at its ends; it must match a whole tag. Raises PatternError."""
    if len(pattern) > LENGTH:
        raise PatternError(LENGTH, too_large=True)
    pattern = pattern.removeprefix("^")
    if pattern.endswith("$") and (len(pattern) - len(pattern[:-1].rstrip("\\"))) % 2 == 1:
        pattern = pattern[:-1]
    reader = _Reader(pattern)
    reader.alternatives(0)
    if reader.at < len(pattern):
        raise PatternError(reader.at)
    return pattern


@dataclass(slots=True)
class _Reader:
    """Reads an expression by recursive descent; each method returns what its part costs."""

    text: str
    at: int = 0

    def next(self) -> str:
        """The character that comes, '' at the end."""
        return self.text[self.at : self.at + 1]

    def take(self) -> str:
        """That character, which must be there."""
        if not self.next():
            raise PatternError(self.at)
        self.at += 1
        return self.text[self.at - 1]

    def alternatives(self, depth: int) -> int:
        """One sequence or another, behind a bar."""
        if depth > DEPTH:
            raise PatternError(self.at, too_large=True)
        cost = self.sequence(depth)
        while self.next() == "|":
            self.at += 1
            cost = self.bounded(cost + self.sequence(depth))
        return cost

    def sequence(self, depth: int) -> int:
        """At least one part."""
        cost = self.part(depth)
        while self.next() not in {"", "|", ")"}:
            cost = self.bounded(cost + self.part(depth))
        return cost

    def part(self, depth: int) -> int:
        """One character or a group, and how often; never two quantifiers in a row, and none that is lazy."""
        sign = self.take()
        if sign == "(":
            if self.text[self.at : self.at + 2] == "?:":
                self.at += 2
            cost = self.alternatives(depth + 1)
            if self.take() != ")":
                raise PatternError(self.at - 1)
        elif sign == "[":
            cost = self.members()
        elif sign == "\\":
            cost = 1
            self.escape()
        elif sign == "." or sign in _PLAIN:
            cost = 1
        else:
            raise PatternError(self.at - 1)
        following = self.next()
        if following in _FACTOR:
            self.at += 1
            cost *= _FACTOR[following]
        elif following == "{":
            cost *= self.repetition()
        return self.bounded(cost)

    def repetition(self) -> int:
        """{3}, {3,} or {3,5}: by how much it makes its part dearer."""
        begin = self.at
        self.at += 1
        least = most = self.number(begin)
        if self.next() == ",":
            self.at += 1
            most = least + 1 if self.next() == "}" else self.number(begin)
        if self.take() != "}" or most < max(least, 1):
            raise PatternError(begin)
        return most if most == least else 4 * most

    def number(self, begin: int) -> int:
        """A count of at most three digits; Postgres takes none above 255."""
        digits = ""
        while len(digits) < 4 and self.next().isascii() and self.next().isdigit():
            digits += self.take()
        if not digits:
            raise PatternError(begin)
        if int(digits) > 255:
            raise PatternError(begin, too_large=True)
        return int(digits)

    def escape(self) -> str:
        """What stands behind a backslash: a sign that is meant as such, or a class of characters."""
        sign = self.take()
        if sign not in _ESCAPED:
            raise PatternError(self.at - 1)
        return sign

    def members(self) -> int:
        """[a-z.] or [^a-z.]: characters, ranges and classes; one member costs as much as a character."""
        begin = self.at - 1
        if self.next() == "^":
            self.at += 1
        members = 0
        while self.next() != "]":
            low, is_class = self.member()
            if self.next() == "-" and self.text[self.at + 1 : self.at + 2] != "]":
                self.at += 1
                high, also = self.member()
                if is_class or also or low > high:
                    raise PatternError(self.at - 1)
            members += 1
        self.at += 1
        if not members:
            raise PatternError(begin)
        return 1 + members // 8

    def member(self) -> tuple[str, bool]:
        """One character of a set, and whether it stands for a class of them."""
        sign = self.take()
        if sign == "\\":
            sign = self.escape()
            return sign, sign in _CLASSES
        if sign not in _PLAIN and sign not in {".", "+"}:
            raise PatternError(self.at - 1)
        return sign, False

    def bounded(self, cost: int) -> int:
        """The cost, unless it is beyond what an expression may cost."""
        if cost > COST:
            raise PatternError(self.at, too_large=True)
        return cost
