"""Puts the functions and classes of a bundle together again, inside the sandbox; Python 3.8 and later."""

# ruff: noqa: UP031, PTH, PLC0415, S102, BLE001, FA100, SLF001, FURB - what Python 3.8 has, and as few imports as can be

from __future__ import annotations
import __future__

import ast
import importlib
import linecache
import sys
import types

from aviato.aio.shipping.inside.refused import said

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict

    Item = Dict[str, Any]

BUILD = {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset, "dict": dict}


def holds_items(reference: list[Any]) -> bool:
    """Tell whether a reference is, or contains, a definition."""
    if reference[0] == "item":
        return True
    return any(
        holds_items(part)
        for inner in reference
        if isinstance(inner, list)
        for part in (inner if inner and isinstance(inner[0], list) else [inner])
        if part and isinstance(part[0], str)
    )


def same(found: Any, value: Any) -> bool:
    """Tell whether a value is as it should be, also in the types of what it holds."""
    try:
        return type(found) is type(value) and bool(found == value) and repr(found) == repr(value)
    except Exception:
        return False


INSIDE = "__aviato_make.<locals>."


def named(code: Any, around: str) -> Any:
    """Return code in which the names of what is defined say where that was, and not what is around it here."""

    def own(name: str) -> str:
        if not name.startswith(INSIDE):
            return name
        return (around + "." if around else "") + name[len(INSIDE) :]

    def part(constant: Any) -> Any:
        if isinstance(constant, str):
            return own(constant)
        return named(constant, around) if isinstance(constant, type(code)) else constant

    changes: dict[str, Any] = {"co_consts": tuple(map(part, code.co_consts))}
    if hasattr(code, "co_qualname"):  # since Python 3.11; before, all of them are constants
        changes["co_qualname"] = own(code.co_qualname)
    return code.replace(**changes)


class Bundle:
    """The definitions of a bundle, made in the order in which they need each other."""

    def __init__(self, bundle: dict[str, Any]) -> None:
        self.items = bundle["items"]
        needed = bundle["needed"]
        modules = []
        for names in bundle["spaces"]:
            module = types.ModuleType(names["__name__"])
            module.__dict__.update(names)
            modules.append(module)
        self.spaces = [module.__dict__ for module in modules]
        self.made: dict[int, Any] = {}
        self.lines: dict[str, list[str]] = {}
        self.lacking: dict[str, str] = {}
        waiting: dict[int, list[Any]] = {}
        late: list[Any] = []
        for index, names in enumerate(bundle["links"]):
            for name, optional, reference in names:
                if reference[0] != "item" and holds_items(reference):
                    late.append((self.spaces[index], name, optional, reference))
                elif reference[0] == "item":
                    waiting.setdefault(reference[1], []).append((self.spaces[index], name))
                else:
                    self.bind(self.spaces[index], name, optional, reference)
        for module in modules:  # after the imports, which may give the real ones; dataclasses look here
            if module.__name__ == "__main__":
                sys.modules["__main__"] = module
            else:
                sys.modules.setdefault(module.__name__, module)
        for number in range(len(self.items)):  # what others need comes first
            made = self.make(number) if number < needed else self.attempt(["item", number])
            if number not in self.made:
                continue  # only a class that values may have, and the reason is in the table
            for space, name in waiting.get(number, ()):
                space[name] = made
        for space, name, optional, reference in late:
            self.bind(space, name, optional, reference)
        for number, (_, link) in list(self.made.items()):  # again, now that circles are closed
            try:
                self.link(number, link)
            except Exception:
                if number < needed:
                    raise
        for number, (made, _) in list(self.made.items()):
            try:
                self.complete(made, self.items[number])
            except Exception:
                if number < needed:
                    raise
        self.classes = [self.attempt(reference) for reference in bundle["classes"]]

    def attempt(self, reference: list[Any]) -> Any:
        """Return what a reference stands for; in its place, when it cannot be had here, a text that says why."""
        try:
            return self.value(reference)
        except Exception as error:
            name = self.items[reference[1]]["qualname"] if reference[0] == "item" else ".".join(reference[1:])
            reasons = [text for missing, text in self.lacking.items() if "%r" % missing in said(error)]
            return "%s cannot be had: %s" % (name, reasons[0] if reasons else said(error))

    def link(self, number: int, link: Any) -> None:
        """Fill the closure of a definition as far as its values are there."""
        if link is not None:
            link([self.early(reference) for reference in self.items[number]["cells"].values()])

    def complete(self, made: Any, item: Item) -> None:
        """Give a definition what was set on it, or registered with it, after it had been defined."""
        for name, reference in item["attributes"]:
            found, value = vars(made).get(name), self.value(reference)
            if same(found, value):
                continue
            if isinstance(made, type):
                type.__setattr__(made, name, value)
            elif type(found) is type(value) and type(value) in (list, dict, set):  # its decorators may hold it too
                found.clear()
                (found.extend if type(value) is list else found.update)(value)
            else:
                setattr(made, name, value)
        for kind, function in item["registered"]:
            made.register(self.value(kind), self.value(function))

    def bind(self, space: dict[str, Any], name: str, optional: bool, reference: list[Any]) -> None:
        """Put one value under its name."""
        try:
            space[name] = self.value(reference)
        except Exception as error:
            if not optional:
                raise
            self.lacking[name] = said(error)

    def load(self, name: str, optional: bool) -> None:
        """Import a module below one that is there, which makes it an attribute of that."""
        try:
            importlib.import_module(name)
        except Exception:
            if not optional:
                raise

    def value(self, reference: list[Any]) -> Any:
        """Return what a reference stands for."""
        kind, rest = reference[0], reference[1:]
        if kind == "item":
            return self.make(rest[0])
        if kind == "literal":
            return ast.literal_eval(rest[0])
        if kind == "float":
            return float(rest[0])
        if kind == "build":
            return BUILD[rest[0]]([self.value(part) for part in rest[1]])
        if kind == "missing":
            raise NameError("the closure variable %r had no value when the function was shipped" % rest[0])
        if kind == "import":
            found = importlib.import_module(rest[0])
            for part in rest[1].split(".") if rest[1] else ():
                found = getattr(found, part)
            return found
        if kind == "call":
            keywords = self.value(rest[2]) if rest[2:] else {}
            return self.value(rest[0])(*[self.value(argument) for argument in rest[1]], **keywords)
        if kind == "attribute":
            return getattr(self.value(rest[0]), rest[1])
        raise ValueError("unknown reference %r" % (reference,))

    def make(self, number: int) -> Any:
        """Make one function or class, after what it needs at once."""
        if number in self.made:
            if self.made[number] is None:
                raise RuntimeError("%s needs itself to be defined" % self.items[number]["name"])
            return self.made[number][0]
        item = self.items[number]
        space = self.spaces[item["space"]]
        self.made[number] = None
        try:
            for name, reference in item["needs"]:
                if holds_items(reference) and name not in item["cells"]:
                    space[name] = self.value(reference)
            now = [self.early(reference) for reference in item["cells"].values()]
            defaults = [self.value(reference) for reference in item["defaults"]]
            for name, optional in item["imports"]:
                self.load(name, optional)
            self.made[number] = self.define(item, space, now, defaults)
        finally:
            if self.made[number] is None:
                del self.made[number]
        self.link(number, self.made[number][1])
        return self.made[number][0]

    def early(self, reference: list[Any]) -> Any:
        """Return a cell's value; None stands for a definition that is still to come, until `link` is called again."""
        if reference[0] == "item" and self.made.get(reference[1]) is None:
            return None
        return self.value(reference)

    def define(self, item: Item, space: dict[str, Any], cells: list[Any], defaults: list[Any]) -> Any:
        """Run one definition inside a function whose parameters are its closure, keeping file and line numbers."""
        lines = item["text"].splitlines(True)
        known = self.lines.setdefault(item["file"], [])
        known.extend(["\n"] * (item["line"] - 1 + len(lines) - len(known)))
        known[item["line"] - 1 : item["line"] - 1 + len(lines)] = lines
        linecache.cache[item["file"]] = (sum(map(len, known)), None, known, item["file"])
        names = list(item["cells"])
        values = ["__aviato_default_%d" % index for index in range(len(defaults))]
        cells_text = ", ".join(names)
        parts = ["def __aviato_make(%s):" % ", ".join(names + values)]
        if names:
            parts.append("    def __aviato_link(__aviato_values):")
            parts.append("        nonlocal %s" % cells_text)
            parts.append("        [%s] = __aviato_values" % cells_text)
        else:
            parts.append("    __aviato_link = None")
        parts.append("    return %s, __aviato_link" % item["name"])
        factory = ast.parse("\n".join(parts))
        made_by: Any = factory.body[0]
        made_by.body.insert(-1, self.definition(item))
        ast.fix_missing_locations(factory)
        flags = __future__.annotations.compiler_flag
        scope: dict[str, Any] = {}
        code = compile(factory, item["file"], "exec", flags, True)
        exec(named(code, item["qualname"].rpartition(".")[0]), space, scope)
        made, link = scope["__aviato_make"](*(cells + defaults))
        try:
            made.__qualname__ = item["qualname"]
        except (AttributeError, TypeError):
            pass
        return made, link

    def definition(self, item: Item) -> Any:
        """Return the definition's tree: without the decorators and default values that are made elsewhere."""
        node: Any
        if item["kind"] == "lambda":
            tree = ast.parse("\n" * (item["line"] - 2) + "%s = (\n%s\n)" % (item["name"], item["text"]))
            node = tree.body[0]
            arguments: Any = node.value.args
            if item["line"] < 2:
                ast.increment_lineno(node, -1)
        else:
            block = "if 1:\n" + item["text"] if item["text"][:1] in " \t" else item["text"]
            node = ast.parse(block, item["file"]).body[0]
            if isinstance(node, ast.If):
                node = node.body[0]
                ast.increment_lineno(node, -1)
            ast.increment_lineno(node, item["line"] - 1)
            node.decorator_list = node.decorator_list[item["skip"] :]
            arguments = getattr(node, "args", None)
        if item["defaults"]:
            names = [
                ast.Name(id="__aviato_default_%d" % index, ctx=ast.Load()) for index in range(len(item["defaults"]))
            ]
            count = len(arguments.defaults)
            arguments.defaults = names[:count]
            keywords = iter(names[count:])
            arguments.kw_defaults = [None if old is None else next(keywords) for old in arguments.kw_defaults]
        return node
