"""What runs a shipped function inside a sandbox: plain Python 3.8, nothing but the standard library.

It is sent as source and called as `python3 RUNNER FUNCTION` with one JSON document on standard input::

    {"args": [...], "kwargs": {...}, "result": "/path/for/the/result"}

FUNCTION is a JSON file made by `_shipping`. What the function prints stays on its own output; the result is written to
the path that the call names, as `{"value": ...}` or `{"error": {"type", "message", "traceback"}}`.
"""

import asyncio
import importlib
import inspect
import json
import linecache
import os
import sys
import traceback
import types


def build(shipped):
    """Define everything that was shipped, and return the function."""
    spaces = {}
    late = []
    for item in shipped["items"]:
        name = item["space"]
        if name not in spaces:
            spaces[name] = types.ModuleType(name)
            sys.modules.setdefault(name, spaces[name])
        space = spaces[name].__dict__
        if item["kind"] == "import":
            module = importlib.import_module(item["module"])
            space[item["name"]] = getattr(module, item["attribute"]) if item["attribute"] else module
        elif item["kind"] == "submodule":
            importlib.import_module(item["module"])
        elif item["kind"] == "value":
            space[item["name"]] = eval(item["literal"], {"__builtins__": {"set": set, "frozenset": frozenset, "float": float}})
        elif item["kind"] == "alias":
            late.append(item)
            bind(spaces, item)
        else:
            source = "\n" * (item["line"] - 1) + item["source"]
            linecache.cache[item["file"]] = (len(source), None, source.splitlines(True), item["file"])
            flags = compile("from __future__ import annotations", "", "exec").co_flags & 0x1000000
            exec(compile(source, item["file"], "exec", flags, True), space)
    for item in late:
        bind(spaces, item)
    return spaces[shipped["entry"][0]].__dict__[shipped["entry"][1]]


def bind(spaces, item):
    """Make a name of one space known in another."""
    origin = spaces.get(item["from"][0])
    if origin is not None and item["from"][1] in origin.__dict__:
        spaces[item["space"]].__dict__[item["name"]] = origin.__dict__[item["from"][1]]


def call(shipped, request):
    """Call the function and return what is to be written."""
    try:
        function = build(shipped)
        value = function(*request["args"], **request["kwargs"])
        if inspect.isawaitable(value):
            value = asyncio.run(as_coroutine(value))
        check(value, "result")
        return {"value": value}
    except BaseException as error:
        frames = traceback.extract_tb(error.__traceback__)
        own = [frame for frame in frames if frame.filename != __file__]
        text = "".join(["Traceback (most recent call last):\n", *traceback.format_list(own)])
        text += "".join(traceback.format_exception_only(type(error), error))
        return {"error": {"type": type(error).__name__, "message": str(error), "traceback": text}}


async def as_coroutine(awaitable):
    """Await anything that can be awaited."""
    return await awaitable


def check(value, path):
    """Refuse a value that JSON would change, naming where it is."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return
    if isinstance(value, (list, tuple)):
        for number, item in enumerate(value):
            check(item, "%s[%d]" % (path, number))
        return
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise TypeError("%s has the key %r: keys must be strings" % (path, key))
            check(item, "%s.%s" % (path, key))
        return
    raise TypeError("%s is a %s, which JSON cannot carry" % (path, type(value).__name__))


def main():
    """Serve one call."""
    with open(sys.argv[1], encoding="utf-8") as file:
        shipped = json.load(file)
    request = json.loads(sys.stdin.buffer.read().decode("utf-8"))
    sys.stdin = open(os.devnull)
    answer = json.dumps(call(shipped, request))
    sys.stdout.flush()
    sys.stderr.flush()
    temporary = request["result"] + ".part"
    with open(temporary, "w", encoding="utf-8") as file:
        file.write(answer)
    os.replace(temporary, request["result"])


if __name__ == "__main__":
    main()
