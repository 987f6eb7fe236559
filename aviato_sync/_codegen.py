"""Generate the facade from the source of the asyncio core.

    python -P aviato_sync/_codegen.py            write aviato_sync/_generated/
    python -P aviato_sync/_codegen.py --check    fail when it is not what would be written
    python -P aviato_sync/_codegen.py --list     show what is carried over, and what is left out and why

Nothing is imported: the source is read with `ast`, and annotations, defaults and docstrings are copied as they stand,
so that the output does not depend on the interpreter. Every construct that no rule covers is refused with its place.
"""

from __future__ import annotations

import ast
import builtins
import difflib
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
REPAIR = "python -P aviato_sync/_codegen.py"
AT_ONCE = "Returns at once with an `OperationRef`: `.result()` blocks, `await` works on any running event loop."
INHERITED = frozenset({"done", "cancelled", "exception", "add_done_callback"})
"""Members of an awaitable handle that `OperationRef` has already, with the facade's own meaning."""
IGNORED = frozenset({"__repr__", "__del__", "__slots__"})
ENDS = {"__aenter__": "__aexit__", "__aexit__": "__aenter__", "__aiter__": "__anext__", "__anext__": "__aiter__"}
WIDTH = 120


class Refused(Exception):  # noqa: N818 - it reads as what happened
    """A construct that no rule covers."""

    def __init__(self, path: str, node: ast.AST, problem: str, advice: str) -> None:
        super().__init__(f"{path}:{getattr(node, 'lineno', 1)}: {problem}; {advice}")


Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass
class Source:
    """One module of the core."""

    path: str
    name: str
    text: str
    tree: ast.Module = field(init=False)
    imports: dict[str, tuple[str, str | None]] = field(default_factory=dict)
    """Name here: module, and name there or None for a module itself."""
    variables: dict[str, str] = field(default_factory=dict)
    """Type variables and their definitions."""
    handles: list[ast.ClassDef] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Read the names."""
        self.tree = ast.parse(self.text, self.path)
        for node in self.tree.body:
            blocks = node.body if isinstance(node, ast.If) else [node]
            for statement in blocks:
                self._read(statement)

    def _read(self, node: ast.stmt) -> None:
        if isinstance(node, ast.Import):
            for alias in node.names:
                self.imports[alias.asname or alias.name] = (alias.name, None)
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                self.imports[alias.asname or alias.name] = (node.module or "", alias.name)
        elif isinstance(node, ast.Assign) and isinstance(node.value, ast.Call):
            if self.segment(node.value.func) in {"TypeVar", "ParamSpec", "TypeVarTuple"}:
                self.variables[self.segment(node.targets[0])] = self.segment(node)
        elif isinstance(node, ast.ClassDef) and "facade.handle" in map(self.segment, node.decorator_list):
            self.handles.append(node)

    def segment(self, node: ast.AST) -> str:
        """Return the source of a node as it stands."""
        return ast.get_source_segment(self.text, node) or ""


@dataclass
class Member:
    """One public member of a handle."""

    name: str
    node: Function
    kind: str  # "method", "class method" or "property"
    overloads: list[Function] = field(default_factory=list)


class Module:
    """The facade's module for one of the core's."""

    def __init__(self, source: Source, handles: dict[str, str]) -> None:
        self.source = source
        self.handles = handles
        self.names: set[str] = set()
        self.bridge: set[str] = {"facade_of"}
        self.iterators: set[str] = set()
        self.operation: set[str] = set()
        self.typing: set[str] = set()
        self.listing: list[str] = []

    def refuse(self, node: ast.AST, problem: str, advice: str) -> Refused:
        """Make the error for a construct of this module."""
        return Refused(self.source.path, node, problem, advice)

    # Reading ---------------------------------------------------------------------------------------------------------

    def members(self, cls: ast.ClassDef) -> Iterator[Member]:
        """Iterate over what the facade is to have, in the order of the source."""
        overloads: list[Function] = []
        for node in cls.body:
            if isinstance(node, (ast.Assign, ast.AnnAssign)):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                for target in targets:
                    self._private(target, self.source.segment(target))
            elif isinstance(node, ast.ClassDef):
                self._private(node, node.name)
            elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                member = self._member(cls, node, overloads)
                if member is not None:
                    yield member

    def _private(self, node: ast.AST, name: str) -> None:
        if not name.startswith("_"):
            raise self.refuse(
                node, f"the handle has a public attribute {name!r}", "give it a leading underscore and a property"
            )

    def _member(self, cls: ast.ClassDef, node: Function, overloads: list[Function]) -> Member | None:
        for inner in ast.walk(node):
            if isinstance(inner, ast.Attribute) and isinstance(inner.ctx, ast.Store):
                owner = inner.value
                if isinstance(owner, ast.Name) and owner.id == "self":
                    self._private(inner, inner.attr)
        kind, skipped, overloaded = self._decorators(node)
        if skipped is not None:
            self.listing.append(f"{cls.name}.{node.name}: left out: {skipped}")
            return None
        name = node.name
        if name in IGNORED or (name.startswith("_") and not name.startswith("__")):
            return None
        if name == "__init__" and ast.get_docstring(node) is None:
            self.listing.append(f"{cls.name}(): left out: undocumented, so it is made by other members only")
            return None
        if name.startswith("__") and name not in {"__init__", "__await__", "__call__", *ENDS}:
            raise self.refuse(node, f"no rule for {name}", 'name it without underscores or mark it @facade.skip("why")')
        if overloaded:
            overloads.append(node)
            return None
        member = Member(name, node, kind, overloads.copy())
        overloads.clear()
        self._check(member)
        return member

    def _decorators(self, node: Function) -> tuple[str, str | None, bool]:
        kind, skipped, overloaded = "method", None, False
        for decorator in node.decorator_list:
            text = self.source.segment(decorator)
            if text == "property":
                kind = "property"
            elif text == "classmethod":
                kind = "class method"
            elif text == "overload":
                overloaded = True
            elif text == "facade.direct":
                kind = "direct"
            elif isinstance(decorator, ast.Call) and self.source.segment(decorator.func) == "facade.skip":
                (reason,) = decorator.args or (None,)
                if not isinstance(reason, ast.Constant) or not isinstance(reason.value, str) or not reason.value:
                    raise self.refuse(decorator, "skip without a reason", 'write @facade.skip("why")')
                skipped = reason.value
            else:
                raise self.refuse(
                    decorator, f"unknown decorator @{text}", "use property, classmethod, overload or facade.skip"
                )
        return kind, skipped, overloaded

    def _check(self, member: Member) -> None:
        node = member.node
        is_async = isinstance(node, ast.AsyncFunctionDef)
        if is_async and member.kind == "property":
            raise self.refuse(
                node, f"async property {node.name!r}", "make it a method: properties only read what is known"
            )
        if is_async and member.kind == "direct":
            raise self.refuse(
                node, f"coroutine {node.name!r} marked direct", "only plain methods run in the caller's thread"
            )
        if node.returns is None:
            raise self.refuse(node, f"{node.name!r} has no return annotation", "write one")
        outer = self.source.segment(node.returns).split("[")[0].rpartition(".")[2]
        if outer in {"Awaitable", "Coroutine"}:
            raise self.refuse(node, f"{node.name!r} returns a bare {outer}", "make it an async def, or return a handle")
        if ast.get_docstring(node) is None:
            raise self.refuse(node, f"{node.name!r} has no docstring", "write one: it is the facade's as well")
        if node.name in ENDS and not any(
            isinstance(other, (ast.FunctionDef, ast.AsyncFunctionDef)) and other.name == ENDS[node.name]
            for other in self.owner(node).body
        ):
            raise self.refuse(node, f"{node.name} without {ENDS[node.name]}", "define both")

    def owner(self, node: Function) -> ast.ClassDef:
        """Return the class that a method belongs to."""
        return next(cls for cls in self.source.handles if node in cls.body)

    def mentions(self, node: ast.expr | None, names: frozenset[str]) -> bool:
        """Tell whether an annotation names one of `names`."""
        return node is not None and any(isinstance(inner, ast.Name) and inner.id in names for inner in ast.walk(node))

    def has_handle(self, node: ast.expr | None) -> bool:
        """Tell whether an annotation names a handle."""
        return self.mentions(node, frozenset(self.handles) | {"Self"})

    def use(self, node: ast.expr) -> str:
        """Copy an annotation or a default, and note what it needs."""
        for inner in ast.walk(node):
            if isinstance(inner, ast.Name):
                known = inner.id in self.source.imports or inner.id in self.source.variables
                if not known and inner.id not in self.handles and not hasattr(builtins, inner.id):
                    raise self.refuse(
                        inner, f"the name {inner.id!r} cannot be resolved", "import it at the top of the module"
                    )
                self.names.add(inner.id)
        return self.source.segment(node)

    # Writing ---------------------------------------------------------------------------------------------------------

    def parameters(self, node: Function) -> tuple[list[str], list[str]]:
        """Return the lines of the signature, and what is passed on."""
        arguments = node.args
        signature: list[str] = []
        passed: list[str] = []

        def declare(argument: ast.arg, default: ast.expr | None, stars: str = "") -> str:
            if argument.annotation is None:
                raise self.refuse(argument, f"parameter {stars}{argument.arg} has no annotation", "write one")
            text = f"{stars}{argument.arg}: {self.use(argument.annotation)}"
            if default is not None:
                text += f" = {self.use(default)}"
            signature.append(text)
            if stars:
                return f"{stars}{argument.arg}"
            if self.mentions(argument.annotation, frozenset({"AsyncIterable", "AsyncIterator"})):
                self.iterators.add("feed")
                return f"feed({argument.arg})"
            if self.mentions(argument.annotation, frozenset(self.handles)):
                self.bridge.add("unwrap")
                return f"unwrap({argument.arg})"
            return argument.arg

        positional = [*arguments.posonlyargs, *arguments.args]
        defaults = [None] * (len(positional) - len(arguments.defaults)) + list(arguments.defaults)
        signature.append(positional[0].arg)
        for index, (argument, default) in enumerate(zip(positional, defaults, strict=True)):
            if index:
                passed.append(declare(argument, default))
            if index + 1 == len(arguments.posonlyargs):
                signature.append("/")
        if arguments.vararg is not None:
            passed.append(declare(arguments.vararg, None, "*"))
        elif arguments.kwonlyargs:
            signature.append("*")
        for argument, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
            passed.append(f"{argument.arg}={declare(argument, default)}")
        if arguments.kwarg is not None:
            passed.append(declare(arguments.kwarg, None, "**"))
        return signature, passed

    def definition(self, node: Function, returns: str, body: list[str], *, decorators: tuple[str, ...] = ()) -> str:
        """Write one method."""
        signature, _ = self.parameters(node)
        lines = [*(f"    @{name}" for name in decorators)]
        if len(signature) == 1:
            lines.append(f"    def {node.name}({signature[0]}) -> {returns}:")
        else:
            lines += [f"    def {node.name}(", *(f"        {line}," for line in signature), f"    ) -> {returns}:"]
        return "\n".join([*lines, *body]) + "\n"

    def docstring(self, node: Function | ast.ClassDef, *, at_once: bool = False) -> str:
        """Copy a docstring, indented as it stands, with the line on how the facade returns."""
        first = node.body[0]
        assert isinstance(first, ast.Expr)  # noqa: S101 - checked before
        indent = " " * first.col_offset
        text = self.source.segment(first.value).replace("asyncio.CancelledError", "concurrent.futures.CancelledError")
        if at_once:
            quotes = text.index('"""') + 3
            summary, blank, rest = text[quotes:].partition("\n\n")
            summary = summary.removesuffix('"""').rstrip()
            ending = f"\n\n{rest}" if blank else f'\n{indent}"""'
            text = f"{text[:quotes]}{summary}\n\n{indent}{AT_ONCE}{ending}"
        return indent + text

    def returned(self, node: Function, body: str) -> tuple[str, str]:
        """Return the annotation of what a member returns, and the annotation's items for an asynchronous iterator."""
        assert node.returns is not None  # noqa: S101 - checked before
        text = self.use(node.returns)
        outer = text.split("[")[0].rpartition(".")[2]
        if outer in {"AsyncIterator", "AsyncIterable", "AsyncGenerator"} and isinstance(node.returns, ast.Subscript):
            self.names.discard(outer)
            items = node.returns.slice
            first = items.elts[0] if isinstance(items, ast.Tuple) else items
            return "iterator", self.source.segment(first)
        return body, text

    def write(self, cls: ast.ClassDef, member: Member) -> list[str]:
        """Write one member."""
        node, name = member.node, member.name
        self.listing.append(f"{cls.name}.{name}: {member.kind}")
        _, passed = self.parameters(node)
        target = f"self._core.{name}" if member.kind != "class method" else f"aio.{cls.name}.{name}"
        starts, calls = (
            ("self._start", "self._call") if member.kind != "class method" else ("start_class", "call_class")
        )
        shape, text = self.returned(node, "coroutine" if isinstance(node, ast.AsyncFunctionDef) else "plain")
        decorators = {"class method": ("classmethod",), "property": ("property",)}.get(member.kind, ())
        in_ref = awaited(cls, self.source) is not None and name == "result"
        if member.kind == "class method" and shape != "iterator":
            self.bridge.add(starts if shape == "coroutine" else calls)
        if name == "__init__":
            body = call("self._make", [f"aio.{cls.name}", *passed])
        elif in_ref:
            body = call("return super().result", passed)
        elif shape == "iterator":
            self.iterators.add("BlockingIterator")
            body = call("return BlockingIterator", [call(f"lambda: {target}", passed, inline=True), "self._home"])
            text = f"BlockingIterator[{text}]"
        elif member.kind == "direct":
            body = call(f"return {target}", passed)
        elif member.kind == "property":
            if self.has_handle(node.returns):
                self.typing.add("cast")
                body = f'return cast("{text}", self._get("{name}"))'
            else:
                body = f"return {target}"
        elif shape == "coroutine":
            self.operation.add("OperationRef")
            wrapped = "_wrapped" if self.has_handle(node.returns) and member.kind != "class method" else ""
            body = call(f"return {starts}{wrapped}", [target, *passed])
            text = f"OperationRef[{text}]"
        elif self.has_handle(node.returns):
            self.typing.add("cast")
            wrapped = "" if member.kind == "class method" else "_wrapped"
            body = call("return cast", [f'"{text}"', call(f"{calls}{wrapped}", [target, *passed])])
        else:
            body = call(f"{'' if text == 'None' else 'return '}{calls}", [target, *passed])
        at_once = shape == "coroutine" and not in_ref
        hide = () if body.startswith("return self._core.") else ("__tracebackhide__ = True",)  # a read raises nothing
        lines = [self.docstring(node, at_once=at_once), *indented(*hide, body)]
        written = [self.overload(member, other) for other in member.overloads]
        return [*written, self.definition(node, text, lines, decorators=decorators)]

    def overload(self, member: Member, node: Function) -> str:
        """Write one overload."""
        self.typing.add("overload")
        _, text = self.returned(node, "")
        if isinstance(node, ast.AsyncFunctionDef):
            text = f"OperationRef[{text}]"
        decorators = ("overload", *(("classmethod",) if member.kind == "class method" else ()))
        return self.definition(node, text, [], decorators=decorators).rstrip("\n") + " ...\n"

    def special(self, cls: ast.ClassDef, names: set[str]) -> list[str]:
        """Write the members that the facade has in two forms."""
        written = []
        if "__aenter__" in names:
            self.typing.add("Self")
            self.names |= {"TracebackType"}
            written.append(CONTEXT)
        if "__await__" in names and awaited(cls, self.source) is None:
            self.typing |= {"Any", "Self"}
            self.names |= {"Generator"}
            node = next(
                member for member in cls.body if isinstance(member, ast.FunctionDef) and member.name == "__await__"
            )
            written.append(AWAIT.format(doc=self.docstring(node).strip()))
        return written

    def base(self, cls: ast.ClassDef, names: set[str]) -> str:
        """Return the base classes."""
        generic = next((self.source.segment(base) for base in cls.bases if "Generic[" in self.source.segment(base)), "")
        for base in cls.bases:
            if self.source.segment(base) != generic:
                raise self.refuse(base, f"handle {cls.name} has a base class", "handles have none but Generic")
            self.names |= {
                inner.id for inner in ast.walk(base) if isinstance(inner, ast.Name) and inner.id != "Generic"
            }
        value = awaited(cls, self.source)
        if value is not None:
            self.bridge.add("RefHandle")
            return f"RefHandle[{self.use(value)}]"
        if "__aiter__" in names:
            if not any(isinstance(node, ast.AsyncFunctionDef) and node.name == "read_batch" for node in cls.body):
                raise self.refuse(
                    cls, f"{cls.name} has no read_batch", "give it one, marked skip: items cross in batches"
                )
            self.iterators.add("BatchReader")
            return f"BatchReader{generic.removeprefix('Generic')}"
        self.bridge.add("Handle")
        if generic:
            self.typing.add("Generic")
        return f"Handle, {generic}" if generic else "Handle"

    def cls(self, cls: ast.ClassDef) -> str:
        """Write one class."""
        if ast.get_docstring(cls) is None:
            raise self.refuse(cls, f"{cls.name} has no docstring", "write one: it is the facade's as well")
        members = list(self.members(cls))
        names = {member.name for member in members}
        base = self.base(cls, names)
        generic = next((self.source.segment(item) for item in cls.bases if "Generic[" in self.source.segment(item)), "")
        core = f"aio.{cls.name}{generic.removeprefix('Generic')}"
        parts = [f"@facade_of(aio.{cls.name})\nclass {cls.name}({base}):\n{self.docstring(cls)}\n\n    _core: {core}\n"]
        inherited = INHERITED if awaited(cls, self.source) is not None else frozenset()
        for member in members:
            if member.name not in inherited and member.name not in {"__await__", *ENDS}:
                parts += self.write(cls, member)
        return "\n".join([*parts, *self.special(cls, names)])

    def text(self) -> str:
        """Write the module."""
        classes = [self.cls(cls) for cls in self.source.handles]
        own = {cls.name for cls in self.source.handles}
        wanted: dict[str, set[str]] = {"aviato": {"aio"}, "__future__": {"annotations"}}
        modules: set[str] = set()
        for name in sorted(self.names - set(self.handles)):
            module, there = self.source.imports.get(name, EXTRA.get(name, ("", None)))
            if not module:
                continue
            if there is None:
                modules.add(module)
            else:
                wanted.setdefault(module, set()).add(there if there == name else f"{there} as {name}")
        variables = [self.source.variables[name] for name in sorted(self.names) if name in self.source.variables]
        wanted.setdefault("typing", set()).update(self.typing, (text.split("(")[0].split()[-1] for text in variables))
        wanted["aviato_sync._bridge"] = self.bridge
        wanted["aviato_sync._iterators"] = self.iterators
        wanted["aviato_sync._operation"] = self.operation
        others = sorted(self.names & set(self.handles) - own)
        lazy = "".join(f"    {line}\n" for line in handle_imports(others, self.handles))
        if lazy:
            wanted["typing"].add("TYPE_CHECKING")
            lazy = f"\nif TYPE_CHECKING:\n{lazy}"
        exported = all_of(own)
        defined = "\n" + "\n".join(variables) + "\n" if variables else ""
        summary = (ast.get_docstring(self.source.tree) or "").partition("\n")[0]
        head = f'{banner(self.source.path)}"""{summary}"""\n\n{imports(wanted, modules)}{lazy}\n{exported}{defined}'
        return f"{head}\n\n" + "\n\n".join(classes)


EXTRA = {"TracebackType": ("types", "TracebackType"), "Generator": ("collections.abc", "Generator")}

CONTEXT = """\
    def __enter__(self) -> Self:
        __tracebackhide__ = True
        self._start(self._core.__aenter__).result()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        __tracebackhide__ = True
        self._start(self._core.__aexit__, exc_type, exc, traceback).result()

    async def __aenter__(self) -> Self:
        await self._start(self._core.__aenter__)
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._start(self._core.__aexit__, exc_type, exc, traceback)
"""

AWAIT = """\
    def __await__(self) -> Generator[Any, None, Self]:
        {doc}
        return self._as_ref().__await__()
"""


def awaited(cls: ast.ClassDef, source: Source) -> ast.expr | None:
    """Return the annotation of what awaiting a handle gives; None when it gives itself, or is not awaitable."""
    for node in cls.body:
        if isinstance(node, ast.FunctionDef) and node.name == "__await__" and isinstance(node.returns, ast.Subscript):
            items = node.returns.slice
            value = items.elts[-1] if isinstance(items, ast.Tuple) else items
            return None if source.segment(value) in {"Self", cls.name} else value
    return None


def call(function: str, arguments: list[str], *, inline: bool = False) -> str:
    """Write a call: on one line if it has at most one argument, else one argument a line, which formatters keep."""
    if inline or len(arguments) <= 1:
        return f"{function}({', '.join(arguments)})"
    lines = "\n".join(f"    {line}" for argument in arguments for line in f"{argument},".splitlines())
    return f"{function}(\n{lines}\n)"


def indented(*statements: str) -> list[str]:
    """Indent statements as the body of a method."""
    return [f"        {line}" for statement in statements for line in statement.splitlines()]


def banner(origin: str) -> str:
    """Write the first lines of a generated file."""
    return f"# Generated from {origin} by aviato_sync/_codegen.py: edit that, then run\n# {REPAIR}\n"


def all_of(names: Iterable[str]) -> str:
    """Write `__all__`."""
    return "__all__ = [\n" + "".join(f'    "{name}",\n' for name in sorted(names)) + "]\n"


def handle_imports(names: Iterable[str], handles: dict[str, str]) -> list[str]:
    """Write the imports of generated handles, one line a module."""
    modules: dict[str, list[str]] = {}
    for name in sorted(names):
        modules.setdefault(handles[name], []).append(name)
    return [f"from aviato_sync._generated.{module} import {', '.join(modules[module])}" for module in sorted(modules)]


def _rank(name: str) -> tuple[int, str]:
    return (0 if name.isupper() and len(name) > 1 else 1 if name[0].isupper() else 2, name)


def imports(wanted: dict[str, set[str]], modules: set[str]) -> str:
    """Write the imports, sorted as the linter wants them."""
    sections: list[list[str]] = [[], [], [], []]

    def section(module: str) -> int:
        top = module.partition(".")[0]
        return (
            0 if top == "__future__" else 1 if top in sys.stdlib_module_names else 3 if top.startswith("aviato") else 2
        )

    for module in sorted(modules):
        sections[section(module)].append(f"import {module}\n")
    for module in sorted(wanted):
        if not wanted[module]:
            continue
        names = sorted(wanted[module], key=_rank)
        line = f"from {module} import {', '.join(names)}\n"
        if len(line) > WIDTH + 1:
            line = f"from {module} import (\n" + "".join(f"    {name},\n" for name in names) + ")\n"
        sections[section(module)].append(line)
    return "\n".join("".join(lines) for lines in sections if lines)


def generate(root: Path) -> tuple[dict[str, str], list[str]]:
    """Return the files of the facade by name, and what was carried over and left out."""
    sources = [
        Source(path.relative_to(root).as_posix(), path.stem, path.read_text())
        for path in sorted((root / "aviato" / "aio").glob("*.py"))
        if not path.name.startswith("_")
    ]
    sources = [source for source in sources if source.handles]
    handles = {cls.name: source.name for source in sources for cls in source.handles}
    files: dict[str, str] = {}
    listing: list[str] = []
    for source in sources:
        module = Module(source, handles)
        files[f"{source.name}.py"] = module.text()
        listing += module.listing
    lines = "\n".join(handle_imports(handles, handles))
    files["__init__.py"] = f'{banner("aviato/aio")}"""The facade\'s classes."""\n\n{lines}\n\n{all_of(handles)}'
    return files, listing


def differences(root: Path, files: dict[str, str]) -> list[str]:
    """Compare bytes with what is on the disk, in both directions."""
    directory = root / "aviato_sync" / "_generated"
    found = {path.relative_to(directory).as_posix(): path.read_bytes() for path in directory.rglob("*.py")}
    problems: list[str] = []
    for name in sorted({*found, *files}):
        if name not in files:
            problems.append(f"{name}: an orphan: nothing in the core gives it; delete it")
        elif found.get(name) != files[name].encode():
            old = found.get(name, b"").decode(errors="replace").splitlines(keepends=True)
            new = files[name].splitlines(keepends=True)
            problems.append("".join(difflib.unified_diff(old, new, f"{name} (on the disk)", f"{name} (from the core)")))
    return problems


def main(arguments: list[str], root: Path = ROOT) -> int:
    """Run the command line."""
    if arguments not in ([], ["--check"], ["--list"]):
        sys.stderr.write(f"usage: {REPAIR} [--check | --list]\n")
        return 2
    try:
        files, listing = generate(root)
    except Refused as error:
        sys.stderr.write(f"{error}\n")
        return 1
    directory = root / "aviato_sync" / "_generated"
    if arguments == ["--list"]:
        sys.stdout.write("\n".join(listing) + "\n")
        return 0
    if arguments == ["--check"]:
        problems = differences(root, files)
        if problems:
            sys.stderr.write("\n".join(problems) + f"\nthe facade is not fresh; repair it with\n    {REPAIR}\n")
        return 1 if problems else 0
    directory.mkdir(parents=True, exist_ok=True)
    for path in directory.rglob("*.py"):
        if path.relative_to(directory).as_posix() not in files:
            path.unlink()
    for name, text in files.items():
        (directory / name).write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
