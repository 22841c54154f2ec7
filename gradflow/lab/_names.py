"""What to say when a name is unknown."""

import difflib
from collections.abc import Iterable


def unknown(kind: str, name: object, known: Iterable[str]) -> ValueError:
    """The error for an unknown name: the near ones, or all when none is near."""
    known = sorted(known)
    near = difflib.get_close_matches(str(name).lower(), known, n=5, cutoff=0.5)
    if near:
        return ValueError(f"no {kind} is called {name!r}; near ones: {', '.join(near)}")
    return ValueError(f"no {kind} is called {name!r}; there are {', '.join(known)}")
