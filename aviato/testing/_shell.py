"""A small, honest shell: what it does not know it refuses with exit code 2 and says so."""

from __future__ import annotations

import asyncio
import posixpath
import signal as signals
from collections.abc import Sequence

from aviato.testing._processes import CannotExecuteError, Process, Program
from aviato.testing._shellcommands import COMMANDS, Break, Exit
from aviato.testing._shellsyntax import (
    Chain,
    Compound,
    Part,
    Pipeline,
    Redirect,
    Script,
    Simple,
    UnknownSyntaxError,
    Word,
    parse,
)
from aviato.testing._shellwords import arithmetic, expand_pattern
from aviato.testing._streams import Open, Pipe, PipeReader, PipeWriter, open_file

_OPTIONS = frozenset("ceuls")


async def shell(ctx: Program) -> int:
    """Run `-c TEXT`, a script file, or what comes on standard input."""
    words = ctx.argv[1:]
    letters = ""
    while words and words[0].startswith("-") and len(words[0]) > 1:
        letters += words.pop(0)[1:]
    if set(letters) - _OPTIONS:
        return await ctx.complain(f"the fake shell does not know -{letters}", 2)
    if "c" in letters:
        if not words:
            return await ctx.complain("-c needs a script", 2)
        text, params = words[0], words[1:] or [ctx.argv[0]]
    elif words:
        try:
            text = ctx.files.node(words[0], ctx.cwd).data.decode("utf-8", "surrogateescape")
        except OSError as error:
            return await ctx.complain(f"{words[0]}: {error.strerror}", 127)
        params = words
    else:
        text, params = (await ctx.read()).decode("utf-8", "surrogateescape"), [ctx.argv[0]]
    running = Shell(ctx, params, errexit="e" in letters, nounset="u" in letters)
    try:
        script = parse(text)
    except UnknownSyntaxError as error:
        return await ctx.complain(str(error), 2)
    return await running.run_to_the_end(script)


class Shell:
    """A running shell, or a subshell.

    Attributes:
        variables: All of them; `exported` are those of the environment.
        status: Of the last command.
        jobs: What runs in the background.
    """

    def __init__(self, ctx: Program, params: Sequence[str], *, errexit: bool = False, nounset: bool = False) -> None:
        self.ctx = ctx
        self.process: Process = ctx.process
        self.params = list(params)
        self.variables = {**ctx.env, "PWD": ctx.cwd}
        self.exported = set(ctx.env)
        self.errexit, self.nounset, self.pipefail = errexit, nounset, False
        self.status = 0
        self.shell_pid = ctx.pid
        self.last_job = 0
        self.jobs: dict[int, Process] = {}
        self.traps: dict[int, str] = {}
        self.trapped: list[int] = []
        self.trap_news = asyncio.Event()
        self._tested = 0

    async def run_to_the_end(self, script: Script) -> int:
        """Run, then the EXIT trap; give the exit code."""
        try:
            await self.run(script)
        except Exit as exit_:
            self.status = exit_.code
        except Break:
            pass
        except UnknownSyntaxError as error:
            self.status = await self.ctx.complain(str(error), 2)
        text = self.traps.pop(0, None)
        if text:
            code = self.status
            try:
                await self.run(parse(text))
                self.status = code
            except Exit as exit_:
                self.status = exit_.code
        return self.status

    async def run(self, script: Script) -> None:
        """Run chains in order."""
        for chain in script.chains:
            if chain.background:
                self._background(chain)
            else:
                await self._chain(chain)
            await self.run_traps()

    async def run_traps(self) -> None:
        """Run the traps of the signals that came."""
        while self.trapped:
            text = self.traps.get(self.trapped.pop(0), "")
            code = self.status
            await self.run(parse(text))
            self.status = code

    async def _chain(self, chain: Chain) -> None:
        for place, (operator, pipeline) in enumerate(chain.links):
            if (operator == "&&" and self.status) or (operator == "||" and not self.status):
                continue
            last = place == len(chain.links) - 1
            self._tested += not last or pipeline.negated
            try:
                await self._pipeline(pipeline)
            finally:
                self._tested -= not last or pipeline.negated
            if self.status and last and self.errexit and not self._tested and not pipeline.negated:
                raise Exit(self.status)

    async def _pipeline(self, pipeline: Pipeline) -> None:
        if len(pipeline.commands) == 1:
            await self.command(pipeline.commands[0])
        else:
            processes: list[Process] = []
            source: Open | None = None
            for place, command in enumerate(pipeline.commands):
                fds = self.process.share()
                if source is not None:
                    _replace(fds, 0, source)
                    source = None
                if place < len(pipeline.commands) - 1:
                    pipe = Pipe()
                    source = PipeReader(pipe)
                    _replace(fds, 1, PipeWriter(pipe))
                processes.append(self._fork(command, fds))
            codes = [await self.wait_for(process) for process in processes]
            self.status = next((code for code in reversed(codes) if code), 0) if self.pipefail else codes[-1]
        if pipeline.negated:
            self.status = int(not self.status)

    def _fork(self, what: Chain | Script | Simple | Compound, fds: dict[int, Open]) -> Process:
        """Run something in a subshell."""
        env = {name: self.variables[name] for name in self.exported if name in self.variables}
        process = self.process.kernel.make(env, self.process.cwd, fds, self.process.group)
        process.handlers.update({number: None for number, text in self.traps.items() if not text and number})
        child = Shell(Program(process, self.process.kernel, self.ctx.argv), self.params)
        child.variables, child.exported = dict(self.variables), set(self.exported)
        child.errexit, child.nounset, child.pipefail = self.errexit, self.nounset, self.pipefail
        child.shell_pid, child.status, child.last_job = self.shell_pid, self.status, self.last_job

        async def main() -> int:
            try:
                if isinstance(what, Script):
                    await child.run(what)
                elif isinstance(what, Chain):
                    if len(what.links) == 1 and len(what.links[0][1].commands) == 1 and not what.links[0][1].negated:
                        await child.command(what.links[0][1].commands[0], last=True)
                    else:
                        await child._chain(what)
                else:
                    await child.command(what, last=True)
            except Exit as exit_:
                return exit_.code
            except Break:
                pass
            except UnknownSyntaxError as error:
                return await child.ctx.complain(str(error), 2)
            return child.status

        process.begin(main, "subshell")
        return process

    def _background(self, chain: Chain) -> None:
        fds = self.process.share()
        _replace(fds, 0, open_file(self.ctx.files, "/dev/null", "/", read=True))
        process = self._fork(chain, fds)
        self.jobs[process.pid] = process
        self.last_job = process.pid
        self.status = 0

    async def wait_for(self, process: Process) -> int:
        """Wait for a child; give its code."""
        await process.ended.wait()
        assert process.status is not None  # noqa: S101 - it ended
        return process.status[0]

    async def command(self, command: Simple | Compound, *, last: bool = False) -> None:
        """Run a command; `last` lets a program take this process over, as nothing follows."""
        if isinstance(command, Simple):
            await self._simple(command, last=last)
            return
        saved = await self._apply(command.redirects)
        if saved is None:
            return
        try:
            await self._compound(command)
        finally:
            self._restore(saved)

    async def _compound(self, command: Compound) -> None:
        if command.kind == "subshell":
            self.status = await self.wait_for(self._fork(command.parts[0], self.process.share()))
        elif command.kind == "group":
            await self.run(command.parts[0])
        elif command.kind == "if":
            await self._if(command.parts)
        elif command.kind == "for":
            words = self.params[1:] if command.words is None else await self.expand(command.words)
            self.status = 0
            for word in words:
                self.set(command.name, word)
                if await self._round(command.parts[0]):
                    break
        else:
            code = 0
            while await self._test(command.parts[0]) == (command.kind == "while"):
                if await self._round(command.parts[1]):
                    break
                code = self.status
                await asyncio.sleep(0)  # a loop that never waits must not hold everything
            self.status = code

    async def _if(self, parts: tuple[Script, ...]) -> None:
        for place in range(0, len(parts) - 1, 2):
            if await self._test(parts[place]):
                await self.run(parts[place + 1])
                return
        self.status = 0
        if len(parts) % 2:
            await self.run(parts[-1])

    async def _test(self, condition: Script) -> bool:
        self._tested += 1
        try:
            await self.run(condition)
        finally:
            self._tested -= 1
        return not self.status

    async def _round(self, body: Script) -> bool:
        """Run a loop's body; tell whether the loop is left."""
        try:
            await self.run(body)
        except Break as leaving:
            if leaving.levels > 1:
                raise Break(leaving.levels - 1, again=leaving.again) from None
            return not leaving.again
        return False

    def set(self, name: str, value: str) -> None:
        """Set a variable."""
        self.variables[name] = value

    async def _simple(self, command: Simple, *, last: bool) -> None:  # noqa: C901, PLR0912 - the rules of sh, in their order
        words = await self.expand(command.words)
        assignments = [(name, await self.expand_one(word)) for name, word in command.assignments]
        if not words:
            saved = await self._apply(command.redirects)
            if saved is not None:
                self._restore(saved)
                if not any(part.kind == "script" for _, word in command.assignments for part in word):
                    self.status = 0
                for name, value in assignments:
                    self.set(name, value)
            return
        builtin = COMMANDS.get(words[0])
        if builtin is None:
            await self._program(words, assignments, command.redirects, last=last)
            return
        saved = await self._apply(command.redirects)
        if saved is None:
            return
        before = dict(self.variables)
        for name, value in assignments:
            self.set(name, value)
        try:
            self.status = await builtin(self, words)
        finally:
            if words[0] == "exec":
                for opened in saved.values():
                    if opened is not None:
                        opened.close()
            else:
                self._restore(saved)
            for name, _ in assignments:
                if name in before:
                    self.variables[name] = before[name]
                else:
                    self.variables.pop(name, None)

    def environment(self, assignments: Sequence[tuple[str, str]] = ()) -> dict[str, str]:
        """Return what a program is given."""
        return {
            **{name: self.variables[name] for name in self.variables if name in self.exported},
            **dict(assignments),
        }

    async def _program(
        self,
        words: list[str],
        assignments: list[tuple[str, str]],
        redirects: tuple[Redirect, ...],
        *,
        last: bool,
    ) -> None:
        saved = await self._apply(redirects)
        if saved is None:
            return
        try:
            if last:
                await self.become(words, self.environment(assignments))
                return
            try:
                process = self.process.kernel.spawn(
                    words, self.environment(assignments), self.process.cwd, self.process.share(), self.process.group
                )
            except CannotExecuteError as error:
                self.status = await self.ctx.complain(error.text, error.code)
                return
            process.handlers.update({number: None for number, text in self.traps.items() if not text and number})
        finally:
            self._restore(saved)
        self.status = await self.wait_for(process)

    async def become(self, words: list[str], env: dict[str, str]) -> None:
        """Run a program in place of this shell.

        Raises:
            Exit: Always.
        """
        try:
            main, argv = self.process.kernel.resolve(words, env, self.process.cwd)
        except CannotExecuteError as error:
            raise Exit(await self.ctx.complain(error.text, error.code)) from None
        self.process.handlers = {number: None for number, handler in self.process.handlers.items() if handler is None}
        self.process.env = env
        raise Exit(await main(Program(self.process, self.process.kernel, argv)))

    # Redirections

    async def _apply(self, redirects: tuple[Redirect, ...]) -> dict[int, Open | None] | None:
        """Redirect; give what was there before, or None after an error, which is the command's."""
        saved: dict[int, Open | None] = {}
        for redirect in redirects:
            target = await self.expand_one(redirect.target)
            try:
                opened = self._open(redirect, target)
            except (OSError, ValueError) as error:
                self._restore(saved)
                reason = error.strerror if isinstance(error, OSError) else str(error)
                self.status = await self.ctx.complain(f"{target}: {reason}", 2)
                return None
            for number in (1, 2) if redirect.operator == "&>" else (redirect.number,):
                before = self.process.fds.pop(number, None)
                if number in saved:
                    if before is not None:
                        before.close()
                else:
                    saved[number] = before
                if opened is not None:
                    self.process.fds[number] = opened if number == redirect.number else opened.dup()
        return saved

    def _open(self, redirect: Redirect, target: str) -> Open | None:
        operator = redirect.operator
        if operator in (">&", "<&"):
            if target == "-":
                return None
            if not target.isdigit():
                raise ValueError("a file number expected")
            return self.process.open(int(target)).dup()
        if operator == "<":
            return self.ctx.open(target)
        append = operator == ">>"
        return self.ctx.open(target, write=True, append=append, truncate=not append)

    def _restore(self, saved: dict[int, Open | None]) -> None:
        for number, before in saved.items():
            if self.process.status is not None:
                if before is not None:
                    before.close()
                continue
            self.process.close(number)
            if before is not None:
                self.process.fds[number] = before

    # Words

    async def expand_one(self, word: Word) -> str:
        """Expand to one string, without splitting."""
        return "".join([await self._value(part) for part in word])

    async def expand(self, words: Sequence[Word]) -> list[str]:  # noqa: C901 - the rules of sh, in their order
        """Expand to arguments: split what was not quoted, and look patterns up."""
        found: list[str] = []
        for word in words:
            fields: list[list[tuple[str, bool]]] = [[]]
            for part in word:
                if part.kind == "variable" and part.text == "@" and part.quoted:
                    for place, param in enumerate(self.params[1:]):
                        if place:
                            fields.append([])
                        fields[-1].append((param, True))
                    continue
                value = await self._value(part)
                if part.quoted or part.kind == "text":
                    fields[-1].append((value, part.quoted))
                    continue
                pieces = value.split()
                if value[:1].isspace() and fields[-1]:
                    fields.append([])
                for place, piece in enumerate(pieces):
                    if place:
                        fields.append([])
                    fields[-1].append((piece, False))
                if value[-1:].isspace() and fields[-1]:
                    fields.append([])
            found.extend(item for field in fields if field for item in self._pattern(field))
        return found

    def _pattern(self, field: list[tuple[str, bool]]) -> list[str]:
        text = "".join(piece for piece, _ in field)
        if not any(letter in piece for piece, quoted in field if not quoted for letter in "*?["):
            return [text] if text or any(quoted for _, quoted in field) else []
        pattern = "".join(piece.translate(_LITERAL) if quoted else piece for piece, quoted in field)
        return expand_pattern(self.ctx.files, self.process.cwd, pattern) or [text]

    async def _value(self, part: Part) -> str:  # noqa: C901, PLR0911 - the rules of sh, in their order
        if part.kind == "text":
            return part.text
        if part.kind == "arithmetic":
            return str(arithmetic(part.text, self.variables))
        if part.kind == "script":
            return await self._substitute(part.text)
        value = self._variable(part.text)
        if part.operator == "#":
            return str(len(value or ""))
        if not part.operator:
            if value is None and self.nounset:
                raise UnknownSyntaxError(f"{part.text}: parameter not set")
            return value or ""
        missing = value is None or (part.operator[0] == ":" and not value)
        action = part.operator[-1]
        if action == "+":
            return "" if missing else await self.expand_one(part.other)
        if not missing:
            return value or ""
        other = await self.expand_one(part.other)
        if action == "?":
            raise Exit(await self.ctx.complain(f"{part.text}: {other or 'parameter not set'}", 2))
        if action == "=":
            self.set(part.text, other)
        return other

    def _variable(self, name: str) -> str | None:
        if name.isdigit():
            return self.params[int(name)] if int(name) < len(self.params) else None
        special = {
            "?": lambda: str(self.status),
            "$": lambda: str(self.shell_pid),
            "!": lambda: str(self.last_job or ""),
            "#": lambda: str(len(self.params) - 1),
            "@": lambda: " ".join(self.params[1:]),
            "*": lambda: " ".join(self.params[1:]),
        }.get(name)
        return special() if special else self.variables.get(name)

    async def _substitute(self, text: str) -> str:
        pipe = Pipe()
        reader, fds = PipeReader(pipe), self.process.share()
        _replace(fds, 1, PipeWriter(pipe))
        parts: list[bytes] = []
        try:
            process = self._fork(parse(text), fds)
            while piece := await reader.read(65536):
                parts.append(piece)
        finally:
            reader.close()
        self.status = await self.wait_for(process)
        return b"".join(parts).decode("utf-8", "surrogateescape").rstrip("\n")

    # Signals

    def trap(self, number: int, text: str | None) -> None:
        """Set what a signal (0: the end) does: None the usual, empty nothing."""
        if text is None:
            self.traps.pop(number, None)
            self.process.handlers.pop(number, None)
        else:
            self.traps[number] = text
            if number:
                self.ctx.on_signal(signals.Signals(number), self._on_signal if text else None)

    def _on_signal(self, number: int) -> None:
        self.trapped.append(number)
        self.trap_news.set()

    def change_directory(self, path: str) -> None:
        """Go to a directory.

        Raises:
            OSError: It is none.
        """
        self.ctx.files.names(path, self.process.cwd)
        self.process.cwd = posixpath.normpath(posixpath.join(self.process.cwd, path))
        self.set("PWD", self.process.cwd)


_LITERAL = {ord(letter): f"[{letter}]" for letter in "*?["}


def _replace(fds: dict[int, Open], number: int, opened: Open) -> None:
    before = fds.pop(number, None)
    if before is not None:
        before.close()
    fds[number] = opened
