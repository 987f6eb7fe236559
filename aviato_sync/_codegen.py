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
KINDS = ("property", "classmethod", "overload", "facade.direct", "facade.prepared")
ITERATORS = frozenset({"AsyncIterator", "AsyncIterable", "AsyncGenerator"})
QUOTES = '"""'
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
    """One module of the core; `imports` has, for a name here, its module and its name there, None for a module."""

    path: str
    name: str
    text: str
    tree: ast.Module = field(init=False)
    imports: dict[str, tuple[str, str | None]] = field(default_factory=dict)
    variables: dict[str, str] = field(default_factory=dict)
    handles: list[ast.ClassDef] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Read the names."""
        self.tree = ast.parse(self.text, self.path)
        for node in self.tree.body:
            for statement in node.body if isinstance(node, ast.If) else [node]:
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
    kind: str  # "method", or the name of its decorator
    overloads: list[Function] = field(default_factory=list)


class Module:
    """The facade's module for one of the core's."""

    def __init__(self, source: Source, handles: dict[str, str]) -> None:
        self.source = source
        self.handles = handles
        self.names: set[str] = set()
        """Names that annotations, defaults and bases use, as they are known in the source."""
        self.needs: dict[str, set[str]] = {"__future__": {"annotations"}, "aviato": {"aio"}}
        self.listing: list[str] = []

    def refuse(self, node: ast.AST, problem: str, advice: str) -> Refused:
        """Make the error for a construct of this module."""
        return Refused(self.source.path, node, problem, advice)

    def need(self, module: str, *names: str) -> None:
        """Have names imported."""
        self.needs.setdefault(module, set()).update(names)

    def members(self, cls: ast.ClassDef) -> Iterator[Member]:
        """Iterate over what the facade is to have, in the order of the source."""
        overloads: list[Function] = []
        for node in cls.body:
            self._check_attributes(node)
            member = self._member(cls, node) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) else None
            if member is not None and member.kind == "overload":
                overloads.append(member.node)
            elif member is not None:
                member.overloads, overloads = overloads, []
                yield member

    def _check_attributes(self, node: ast.stmt) -> None:
        names = [node.name] if isinstance(node, ast.ClassDef) else []
        if isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names += map(self.source.segment, targets)
        for inner in ast.walk(node):
            if isinstance(inner, ast.Attribute) and isinstance(inner.ctx, ast.Store):
                names += [inner.attr] if self.source.segment(inner.value) == "self" else []
        for name in names:
            if not name.startswith("_"):
                raise self.refuse(
                    node, f"public attribute {name!r} of a handle", "give it an underscore and a property"
                )

    def _member(self, cls: ast.ClassDef, node: Function) -> Member | None:
        kind, skipped = self._decorators(node)
        name = node.name
        if skipped:
            self.listing.append(f"{cls.name}.{name}: left out: {skipped}")
            return None
        if name in IGNORED or (name.startswith("_") and not name.startswith("__")):
            return None
        if name == "__init__" and ast.get_docstring(node) is None:
            self.listing.append(f"{cls.name}(): left out: it has no docstring, so only other members make it")
            return None
        if name.startswith("__") and name not in {"__init__", "__await__", "__call__", *ENDS}:
            raise self.refuse(node, f"no rule for {name}", 'name it without underscores or mark it @facade.skip("why")')
        others = {other.name for other in cls.body if isinstance(other, (ast.FunctionDef, ast.AsyncFunctionDef))}
        if name in ENDS and ENDS[name] not in others:
            raise self.refuse(node, f"{name} without {ENDS[name]}", "define both")
        if node.returns is None:
            raise self.refuse(node, f"{name!r} has no return annotation", "write one")
        outer = outermost(self.source.segment(node.returns))
        if outer in {"Awaitable", "Coroutine"}:
            raise self.refuse(node, f"{name!r} returns a bare {outer}", "make it an async def, or return a handle")
        if isinstance(node, ast.AsyncFunctionDef) and kind in {"property", "direct", "prepared"}:
            raise self.refuse(node, f"async {kind} {name!r}", "make it a method: it does I/O")
        return Member(name, node, kind)

    def _decorators(self, node: Function) -> tuple[str, str]:
        kind, skipped = "method", ""
        for decorator in node.decorator_list:
            text = self.source.segment(decorator)
            if text in KINDS:
                kind = text.removeprefix("facade.") if kind != "overload" else kind
            elif isinstance(decorator, ast.Call) and self.source.segment(decorator.func) == "facade.skip":
                skipped = "".join(str(ast.literal_eval(reason)) for reason in decorator.args)
                if not skipped:
                    raise self.refuse(decorator, "skip without a reason", 'write @facade.skip("why")')
            else:
                raise self.refuse(decorator, f"unknown decorator @{text}", f"use {', '.join(KINDS)} or facade.skip")
        return kind, skipped

    def mentions(self, node: ast.expr, names: Iterable[str]) -> bool:
        """Tell whether an annotation names one of `names`."""
        return any(isinstance(inner, ast.Name) and inner.id in names for inner in ast.walk(node))

    def use(self, node: ast.expr) -> str:
        """Copy an annotation, default or base, and note what it needs."""
        for inner in ast.walk(node):
            if isinstance(inner, ast.Name):
                known = {**self.source.imports, **self.source.variables, **self.handles}
                if inner.id not in known and not hasattr(builtins, inner.id):
                    raise self.refuse(inner, f"the name {inner.id!r} cannot be resolved", "import it in this module")
                self.names.add(inner.id)
        return self.source.segment(node)

    def parameter(self, argument: ast.arg, default: ast.expr | None, stars: str = "") -> tuple[str, str]:
        """Return how a parameter is declared, and how it is passed on."""
        name = stars + argument.arg
        if argument.annotation is None:
            raise self.refuse(argument, f"parameter {name} has no annotation", "write one")
        declared = f"{name}: {self.use(argument.annotation)}"
        if default is not None:
            declared += f" = {self.use(default)}"
        if not stars and self.mentions(argument.annotation, {"AsyncIterable", "AsyncIterator"}):
            self.need("aviato_sync._iterators", "feed")
            return declared, f"feed({name})"
        if not stars and self.mentions(argument.annotation, self.handles):
            self.need("aviato_sync._bridge", "unwrap")
            return declared, f"unwrap({name})"
        return declared, name

    def parameters(self, node: Function) -> tuple[list[str], list[str]]:
        """Return the lines of the signature, and what is passed on."""
        arguments = node.args
        positional = [*arguments.posonlyargs, *arguments.args]
        defaults = [None] * (len(positional) - len(arguments.defaults)) + list(arguments.defaults)
        written = [self.parameter(*pair) for pair in list(zip(positional, defaults, strict=True))[1:]]
        own = positional[0]
        declared_self = own.arg if own.annotation is None else f"{own.arg}: {self.use(own.annotation)}"
        signature = [declared_self, *(declared for declared, _ in written)]
        passed = [name for _, name in written]
        if arguments.posonlyargs:
            signature.insert(len(arguments.posonlyargs), "/")
        keywords = [(*pair, "") for pair in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)]
        if keywords and arguments.vararg is None:
            signature.append("*")
        for argument, default, stars in ((arguments.vararg, None, "*"), *keywords, (arguments.kwarg, None, "**")):
            if argument is None:
                continue
            declared, name = self.parameter(argument, default, stars)
            signature.append(declared)
            passed.append(name if stars else f"{argument.arg}={name}")
        return signature, passed

    def docstring(self, node: Function | ast.ClassDef, *, at_once: bool = False) -> str:
        """Copy a docstring, indented as it stands, with the line on how the facade returns."""
        if ast.get_docstring(node) is None:
            raise self.refuse(node, f"{node.name!r} has no docstring", "write one: it is the facade's as well")
        first = node.body[0]
        indent = " " * first.col_offset
        text = self.source.segment(first).replace("asyncio.CancelledError", "concurrent.futures.CancelledError")
        if at_once:
            quotes = text.index('"""') + 3
            summary, blank, rest = text[quotes:].partition("\n\n")
            ending = f"\n\n{rest}" if blank else f'\n{indent}"""'
            text = f"{text[:quotes]}{summary.removesuffix(QUOTES).rstrip()}\n\n{indent}{AT_ONCE}{ending}"
        return indent + text

    def returned(self, node: Function) -> tuple[str, str]:
        """Return the shape of what comes back, "ref", "iterator" or "plain", and its annotation in the facade."""
        returns = node.returns
        assert returns is not None  # noqa: S101 - checked before
        if outermost(self.source.segment(returns)) in ITERATORS and isinstance(returns, ast.Subscript):
            item = returns.slice.elts[0] if isinstance(returns.slice, ast.Tuple) else returns.slice
            self.need("aviato_sync._iterators", "BlockingIterator")
            return "iterator", f"BlockingIterator[{self.use(item)}]"
        text = self.use(returns)
        if isinstance(node, ast.AsyncFunctionDef):
            self.need("aviato_sync._operation", "OperationRef")
            return "ref", f"OperationRef[{text}]"
        return "plain", text

    def write(self, cls: ast.ClassDef, member: Member) -> str:
        """Write one member, and its overloads before it."""
        node, kind = member.node, member.kind
        self.listing.append(f"{cls.name}.{member.name}: {kind}")
        signature, passed = self.parameters(node)
        if member.name == "result" and self.awaited(cls) is not None:  # an OperationRef has it: here is its docstring
            shape, text = "plain", self.use(node.returns) if node.returns else ""
            body = call("return super().result", passed)
        else:
            shape, text = self.returned(node)
            body = self.body(cls, member, shape, text, passed)
        hide = () if body.startswith("return self._core.") else ("__tracebackhide__ = True",)  # reading raises nothing
        lines = [self.docstring(node, at_once=shape == "ref"), *indented(*hide, body)]
        decorators = [kind] if kind in {"property", "classmethod"} else []
        written = definition(member.name, signature, text, decorators, lines)
        for other in reversed(member.overloads):
            self.need("typing", "overload")
            signature, text = self.parameters(other)[0], self.returned(other)[1]
            head = definition(member.name, signature, text, ["overload", *decorators], [])
            written = f"{head[:-1]} ...\n\n{written}"
        return written

    def body(self, cls: ast.ClassDef, member: Member, shape: str, text: str, passed: list[str]) -> str:
        """Write the one statement of a member."""
        name, returns = member.name, member.node.returns
        assert returns is not None  # noqa: S101 - checked before
        wraps = self.mentions(returns, {*self.handles, "Self"})
        core, suffix = f"self._core.{name}", "_wrapped" if wraps else ""
        if name == "__init__":
            return call("self._make", [f"aio.{cls.name}", *passed])
        if member.kind == "direct":
            return call(f"return {core.removesuffix('.__call__')}", passed)
        if member.overloads:
            self.need("typing", "Any", "cast")
            core = f'cast("Any", {core})'  # a ParamSpec cannot stand for several signatures
        if shape == "iterator":
            return call("return BlockingIterator", ["self._home", core, *passed])
        start, run = f"self._start{suffix}", f"self._call{suffix}"
        if member.kind == "classmethod":
            core, start, run, wraps = f"aio.{cls.name}.{name}", "start_class", "call_class", True
            self.need("aviato_sync._bridge", start if shape == "ref" else run)
        if shape == "ref":
            return call(f"return {start}", [core, *passed])
        if member.kind == "prepared":
            run, core = "self._launch", f'"{name}"'
        inner = (f'self._get("{name}")' if wraps else core) if member.kind == "property" else call(run, [core, *passed])
        if wraps:
            self.need("typing", "cast")
            return call("return cast", [f'"{text}"', inner]) if "\n" in inner else f'return cast("{text}", {inner})'
        return inner if text == "None" else f"return {inner}"

    def awaited(self, cls: ast.ClassDef) -> ast.expr | None:
        """Return the annotation of what awaiting a handle gives; None when it gives itself, or is not awaitable."""
        for node in cls.body:
            if isinstance(node, ast.FunctionDef) and node.name == "__await__":
                if not isinstance(node.returns, ast.Subscript) or not isinstance(node.returns.slice, ast.Tuple):
                    raise self.refuse(node, "__await__ does not say what it gives", "return Generator[Any, None, T]")
                value = node.returns.slice.elts[-1]
                return None if self.source.segment(value) in {"Self", cls.name} else value
        return None

    def bases(self, cls: ast.ClassDef, members: list[Member]) -> tuple[list[str], str]:
        """Return the base classes, and the type parameters."""
        names = {member.name for member in members}
        if len(cls.bases) > 1 or any(outermost(self.source.segment(base)) != "Generic" for base in cls.bases):
            raise self.refuse(cls, f"handle {cls.name} has a base class", "handles have none but Generic")
        parameters = "".join(self.use(base).removeprefix("Generic") for base in cls.bases)
        value = self.awaited(cls)
        bases = [] if value is None else [f"RefHandle[{self.use(value)}]"]
        if "__await__" in names and not bases:
            bases.append("AwaitableHandle")
        if "__aenter__" in names:
            given = next(
                self.source.segment(m.node.returns) for m in members if m.name == "__aenter__" and m.node.returns
            )
            bases.append("ContextHandle" if given in {"Self", cls.name} else f"EnteringHandle[{given}]")
            if given in self.handles and self.handles[given] != self.source.name:
                self.need(f"aviato_sync._generated.{self.handles[given]}", given)  # a base is there at run time
        self.need("aviato_sync._bridge", *(base.partition("[")[0] for base in bases))
        if "__aiter__" in names:
            if not any(isinstance(node, ast.AsyncFunctionDef) and node.name == "read_batch" for node in cls.body):
                raise self.refuse(
                    cls, f"{cls.name} has no read_batch", "give it one, marked skip: items cross in batches"
                )
            self.need("aviato_sync._iterators", "BatchReader")
            self.names.discard("Generic")
            return [*bases, f"BatchReader{parameters}"], parameters
        if not bases:
            bases.append("Handle")
            self.need("aviato_sync._bridge", "Handle")
        return [*bases, *([f"Generic{parameters}"] if parameters else [])], parameters

    def cls(self, cls: ast.ClassDef) -> str:
        """Write one class."""
        members = list(self.members(cls))
        bases, parameters = self.bases(cls, members)
        self.need("aviato_sync._bridge", "facade_of")
        head = f"@facade_of(aio.{cls.name})\nclass {cls.name}({', '.join(bases)}):\n{self.docstring(cls)}\n\n"
        inherited = {"__await__", *ENDS, *(INHERITED if bases[0].startswith("RefHandle") else ())}
        parts = [self.write(cls, member) for member in members if member.name not in inherited]
        return "\n".join([f"{head}    _core: aio.{cls.name}{parameters}\n", *parts])

    def text(self) -> str:
        """Write the module."""
        classes = [self.cls(cls) for cls in self.source.handles]
        own = {cls.name for cls in self.source.handles}
        modules: set[str] = set()
        for name in self.names - set(self.handles):
            module, there = self.source.imports.get(name, ("", None))
            if there is not None:
                self.need(module, there if there == name else f"{there} as {name}")
            elif module:
                modules.add(module)
        variables = [self.source.variables[name] for name in sorted(self.names) if name in self.source.variables]
        for variable in variables:
            self.need("typing", variable.split("(")[0].split()[-1])
        lazy = "".join(f"    {line}\n" for line in handle_imports(self.names & set(self.handles) - own, self.handles))
        if lazy:
            self.need("typing", "TYPE_CHECKING")
            lazy = f"\nif TYPE_CHECKING:\n{lazy}"
        defined = "\n" + "\n".join(variables) + "\n" if variables else ""
        summary = (ast.get_docstring(self.source.tree) or "").partition("\n")[0]
        head = f'{banner(self.source.path)}"""{summary}"""\n\n{imports(self.needs, modules)}{lazy}\n{all_of(own)}'
        return f"{head}{defined}\n\n" + "\n\n".join(classes)


def outermost(annotation: str) -> str:
    """Return the last part of the name that an annotation begins with."""
    return annotation.partition("[")[0].rpartition(".")[2]


def definition(name: str, signature: list[str], returns: str, decorators: list[str], body: list[str]) -> str:
    """Write one method, with one parameter a line."""
    listed = "".join(f"        {line},\n" for line in signature)
    head = f"({signature[0]})" if len(signature) == 1 else f"(\n{listed}    )"
    lines = [*(f"    @{decorator}" for decorator in decorators), f"    def {name}{head} -> {returns}:", *body]
    return "\n".join(lines) + "\n"


def call(function: str, arguments: list[str]) -> str:
    """Write a call: on one line if it has at most one argument, else one argument a line, which formatters keep."""
    if len(arguments) <= 1:
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


def imports(wanted: dict[str, set[str]], modules: set[str]) -> str:
    """Write the imports, sorted as the linter wants them."""
    sections: list[list[str]] = [[], [], [], []]

    def section(module: str) -> int:
        top = module.partition(".")[0]
        return {"__future__": 0, "aviato": 3, "aviato_sync": 3}.get(top, 1 if top in sys.stdlib_module_names else 2)

    for module in sorted(modules):
        sections[section(module)].append(f"import {module}\n")
    for module in sorted(wanted):
        names = sorted(wanted[module], key=lambda name: (not (name.isupper() and name[1:]), name[0].islower(), name))
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
    for path in set(directory.rglob("*.py")) - {directory / name for name in files}:
        path.unlink()
    for name, text in files.items():
        (directory / name).write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
