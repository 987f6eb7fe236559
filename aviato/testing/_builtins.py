"""The programs that every fake sandbox has."""

from __future__ import annotations

from aviato.testing import _basics as basics
from aviato.testing._filetools import FILE_TOOLS
from aviato.testing._processes import Main
from aviato.testing._python import python
from aviato.testing._shell import shell

BUILTINS: dict[str, Main] = {
    **{
        main.__name__: main
        for main in (
            basics.basename,
            basics.cat,
            basics.echo,
            basics.env,
            basics.false,
            basics.head,
            basics.kill,
            basics.printf,
            basics.pwd,
            basics.seq,
            basics.sleep,
            basics.tee,
            basics.true,
            basics.wc,
            basics.whoami,
            basics.yes,
        )
    },
    **FILE_TOOLS,
    "bash": shell,
    "python": python,
    "python3": python,
    "sh": shell,
}
