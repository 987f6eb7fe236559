"""What the fake shell understands, as a tree; anything else is refused by name."""

from __future__ import annotations

import re
from collections.abc import Collection

import attrs

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_ASSIGNMENT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*=")
_SPECIAL = "?$!#@*0123456789"
_REDIRECT = re.compile(r"(\d*)(<<<|<<|>>|>&|<&|>\||<>|>|<)|(&>)")
_OPERATORS = re.compile(r"&&|\|\||;;|[;&|()\n]")
_RESERVED = frozenset({"then", "elif", "else", "fi", "do", "done", "}", "esac", "in"})
_UNKNOWN = frozenset({"case", "function", "select", "time", "[[", "coproc"})


class UnknownSyntaxError(Exception):
    """The fake shell does not know something."""


@attrs.frozen
class Part:
    """A piece of a word: `text`, `variable`, `script` (command substitution) or `arithmetic`."""

    kind: str
    text: str
    quoted: bool
    operator: str = ""
    other: tuple[Part, ...] = ()


Word = tuple[Part, ...]


@attrs.frozen
class Redirect:
    """One redirection."""

    number: int
    operator: str
    target: Word


@attrs.frozen
class Simple:
    """Assignments and a command."""

    assignments: tuple[tuple[str, Word], ...]
    words: tuple[Word, ...]
    redirects: tuple[Redirect, ...]


@attrs.frozen
class Compound:
    """`if`, `while`, `until`, `for`, a group `{ }` or a subshell `( )`.

    Attributes:
        parts: Lists of commands: for `if` conditions and bodies in order (an else comes last, alone), for loops the
            condition and the body, else the body.
    """

    kind: str
    parts: tuple[Script, ...]
    redirects: tuple[Redirect, ...]
    name: str = ""
    words: tuple[Word, ...] | None = None


@attrs.frozen
class Pipeline:
    """Commands joined by pipes."""

    commands: tuple[Simple | Compound, ...]
    negated: bool


@attrs.frozen
class Chain:
    """Pipelines joined by `&&` and `||`; the first one's operator is empty."""

    links: tuple[tuple[str, Pipeline], ...]
    background: bool


@attrs.frozen
class Script:
    """Chains one after the other."""

    chains: tuple[Chain, ...]


def parse(text: str) -> Script:
    """Read a script.

    Raises:
        UnknownSyntaxError: It is wrong, or has something that the fake shell does not know.
    """
    parser = _Parser(text)
    script = parser.script(())
    if parser.position < len(text):
        raise UnknownSyntaxError(f"unexpected {text[parser.position :][:20]!r}")
    return script


class _Parser:
    def __init__(self, text: str) -> None:
        self.text = text
        self.position = 0

    def _blank(self, *, lines: bool = False) -> None:
        text = self.text
        while self.position < len(text):
            letter = text[self.position]
            if letter in " \t" or (lines and letter == "\n"):
                self.position += 1
            elif text.startswith("\\\n", self.position):
                self.position += 2
            elif letter == "#" and (self.position == 0 or text[self.position - 1] in " \t\n;&|("):
                end = text.find("\n", self.position)
                self.position = len(text) if end < 0 else end
            else:
                return

    def _operator(self) -> str:
        self._blank()
        match = _OPERATORS.match(self.text, self.position)
        if match and self.text.startswith("&>", self.position):
            return ""
        return match.group() if match else ""

    def _take(self, operator: str) -> bool:
        if self._operator() == operator:
            self.position += len(operator)
            return True
        return False

    def _keyword(self) -> str:
        """Return the plain word that comes next, without taking it."""
        self._blank(lines=False)
        match = re.compile(r"[^\s;&|()<>'\"$`\\]+").match(self.text, self.position)
        if match is None:
            return ""
        following = self.text[match.end() : match.end() + 1]
        return "" if following and following in "'\"$`\\" else match.group()

    def _expect(self, keyword: str) -> None:
        self._blank(lines=True)
        if self._keyword() != keyword:
            raise UnknownSyntaxError(f"{keyword!r} expected before {self.text[self.position :][:20]!r}")
        self.position += len(keyword)

    def script(self, ends: Collection[str]) -> Script:
        chains: list[Chain] = []
        while True:
            self._blank(lines=True)
            while self._take(";") or self._take("\n"):
                self._blank(lines=True)
            if self.position >= len(self.text) or self._operator() == ")" or self._keyword() in ends:
                return Script(tuple(chains))
            chains.append(self._chain())

    def _chain(self) -> Chain:
        links = [("", self._pipeline())]
        while (operator := self._operator()) in ("&&", "||"):
            self.position += 2
            self._blank(lines=True)
            links.append((operator, self._pipeline()))
        background = self._operator() == "&"
        if background or self._operator() in (";", "\n"):
            self.position += 1
        elif self._operator() not in ("", ")"):
            raise UnknownSyntaxError(f"unexpected {self._operator()!r}")
        return Chain(tuple(links), background)

    def _pipeline(self) -> Pipeline:
        negated = False
        while self._keyword() == "!":
            self.position += 1
            negated = not negated
        commands = [self._command()]
        while self._take("|"):
            self._blank(lines=True)
            commands.append(self._command())
        return Pipeline(tuple(commands), negated)

    def _command(self) -> Simple | Compound:
        keyword = self._keyword()
        if self._take("("):
            if self._operator() == "(":
                raise UnknownSyntaxError("the fake shell does not know (( ))")
            body = self.script(())
            if not self._take(")"):
                raise UnknownSyntaxError("')' expected")
            return Compound("subshell", (body,), self._redirects())
        if keyword in _UNKNOWN:
            raise UnknownSyntaxError(f"the fake shell does not know {keyword!r}")
        if keyword in _RESERVED:
            raise UnknownSyntaxError(f"unexpected {keyword!r}")
        if keyword in ("if", "while", "until", "for", "{"):
            self.position += len(keyword)
            return getattr(self, {"{": "_group", "until": "_while"}.get(keyword, f"_{keyword}"))(keyword)  # type: ignore[no-any-return]  # one of the four below
        return self._simple()

    def _group(self, _keyword: str) -> Compound:
        body = self.script(("}",))
        self._expect("}")
        return Compound("group", (body,), self._redirects())

    def _if(self, _keyword: str) -> Compound:
        parts = [self.script(("then",))]
        while True:
            self._expect("then")
            parts.append(self.script(("elif", "else", "fi")))
            if self._keyword() != "elif":
                break
            self._expect("elif")
            parts.append(self.script(("then",)))
        if self._keyword() == "else":
            self._expect("else")
            parts.append(self.script(("fi",)))
        self._expect("fi")
        return Compound("if", tuple(parts), self._redirects())

    def _body(self) -> Script:
        self._expect("do")
        body = self.script(("done",))
        self._expect("done")
        return body

    def _while(self, keyword: str) -> Compound:
        condition = self.script(("do",))
        body = self._body()
        return Compound(keyword, (condition, body), self._redirects())

    def _for(self, _keyword: str) -> Compound:
        self._blank()
        match = _NAME.match(self.text, self.position)
        if match is None:
            raise UnknownSyntaxError("the fake shell knows only: for NAME in WORDS")
        self.position = match.end()
        self._blank(lines=True)
        words: list[Word] | None = None
        if self._keyword() == "in":
            self.position += 2
            words = []
            while (word := self.word()) is not None:
                words.append(word)
        while self._take(";") or self._take("\n"):
            pass
        body = self._body()
        return Compound("for", (body,), self._redirects(), match.group(), None if words is None else tuple(words))

    def _redirect(self) -> Redirect | None:
        self._blank()
        match = _REDIRECT.match(self.text, self.position)
        if match is None:
            return None
        number, operator, both = match.groups()
        if operator in ("<<", "<<<", "<>"):
            raise UnknownSyntaxError(f"the fake shell does not know {operator}")
        self.position = match.end()
        target = self.word()
        if target is None:
            raise UnknownSyntaxError(f"{match.group()} needs a target")
        if both:
            return Redirect(1, "&>", target)
        return Redirect(int(number) if number else int(operator[0] == ">"), operator, target)

    def _redirects(self) -> tuple[Redirect, ...]:
        found: list[Redirect] = []
        while (redirect := self._redirect()) is not None:
            found.append(redirect)
        return tuple(found)

    def _simple(self) -> Simple:
        assignments: list[tuple[str, Word]] = []
        words: list[Word] = []
        redirects: list[Redirect] = []
        while True:
            redirect = self._redirect()
            if redirect is not None:
                redirects.append(redirect)
                continue
            match = _ASSIGNMENT.match(self.text, self.position)
            if match and not words:
                self.position = match.end()
                assignments.append((match.group()[:-1], self.word() or ()))
                continue
            word = self.word()
            if word is None:
                break
            words.append(word)
        if words and self._operator() == "(":
            raise UnknownSyntaxError("the fake shell does not know functions")
        if not (words or assignments or redirects):
            raise UnknownSyntaxError(f"a command expected before {self.text[self.position :][:20]!r}")
        return Simple(tuple(assignments), tuple(words), tuple(redirects))

    def word(self) -> Word | None:
        """Read a word, None where there is none."""
        self._blank()
        parts: list[Part] = []
        start = self.position
        while self.position < len(self.text):
            letter = self.text[self.position]
            if letter in " \t\n;&|()<>":
                break
            if letter == "'":
                end = self.text.find("'", self.position + 1)
                if end < 0:
                    raise UnknownSyntaxError("a quote is not closed")
                parts.append(Part("text", self.text[self.position + 1 : end], quoted=True))
                self.position = end + 1
            elif letter == '"':
                self.position += 1
                parts.append(Part("text", "", quoted=True))
                parts.extend(self._quoted('"'))
            elif letter == "\\":
                following = self.text[self.position + 1 : self.position + 2]
                if following != "\n":
                    parts.append(Part("text", following, quoted=True))
                self.position += 2
            elif letter in "$`":
                parts.append(self._dollar(quoted=False))
            elif letter == "~" and self.position == start:
                parts.append(Part("variable", "HOME", quoted=True))
                self.position += 1
            else:
                match = re.compile(r"[^\s;&|()<>'\"\\$`~]+|~").match(self.text, self.position)
                assert match is not None  # noqa: S101 - all other letters were handled
                parts.append(Part("text", match.group(), quoted=False))
                self.position = match.end()
        return tuple(parts) if self.position > start else None

    def _quoted(self, end: str) -> list[Part]:
        """Read what is in double quotes, or to the end of a `${NAME:-WORD}`."""
        parts: list[Part] = []
        text = ""
        while True:
            letter = self.text[self.position : self.position + 1]
            if not letter:
                raise UnknownSyntaxError(f"{end!r} is not closed")
            if letter == end:
                self.position += 1
                break
            if letter == "\\" and self.text[self.position + 1 : self.position + 2] in ('"', "\\", "$", "`", "\n"):
                text += self.text[self.position + 1].replace("\n", "")
                self.position += 2
            elif letter in "$`":
                parts.append(Part("text", text, quoted=True))
                text = ""
                parts.append(self._dollar(quoted=True))
            else:
                text += letter
                self.position += 1
        return [*parts, Part("text", text, quoted=True)]

    def _dollar(self, *, quoted: bool) -> Part:  # noqa: PLR0911 - one for each form
        text, position = self.text, self.position
        if text[position] == "`":
            end = text.find("`", position + 1)
            if end < 0:
                raise UnknownSyntaxError("'`' is not closed")
            self.position = end + 1
            return Part("script", text[position + 1 : end], quoted)
        if text.startswith("$((", position):
            end = text.find("))", position)
            if end < 0:
                raise UnknownSyntaxError("'$((' is not closed")
            self.position = end + 2
            return Part("arithmetic", text[position + 3 : end], quoted)
        if text.startswith("$(", position):
            self.position += 2
            inside = self.position
            self.script(())
            if self.text[self.position : self.position + 1] != ")":
                raise UnknownSyntaxError("'$(' is not closed")
            self.position += 1
            return Part("script", text[inside : self.position - 1], quoted)
        if text.startswith("${", position):
            return self._brace(quoted=quoted)
        match = _NAME.match(text, position + 1)
        if match:
            self.position = match.end()
            return Part("variable", match.group(), quoted)
        following = text[position + 1 : position + 2]
        if following and following in _SPECIAL:
            self.position += 2
            return Part("variable", following, quoted)
        self.position += 1
        return Part("text", "$", quoted)

    def _brace(self, *, quoted: bool) -> Part:
        match = re.compile(r"\$\{(#?)([A-Za-z_][A-Za-z0-9_]*|[?$!@*0-9])").match(self.text, self.position)
        if match is None:
            raise UnknownSyntaxError(f"the fake shell does not know {self.text[self.position :][:12]!r}")
        self.position = match.end()
        length, name = match.groups()
        if self.text[self.position : self.position + 1] == "}":
            self.position += 1
            return Part("variable", name, quoted, operator=length)
        operator = re.compile(r":?[-=+?]").match(self.text, self.position)
        if operator is None or length:
            raise UnknownSyntaxError(f"the fake shell does not know ${{{name}{self.text[self.position :][:6]}")
        self.position = operator.end()
        return Part("variable", name, quoted, operator=operator.group(), other=tuple(self._quoted("}")))
