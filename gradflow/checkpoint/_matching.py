"""Matches the entries of a mapping with the leaves of a state."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from itertools import takewhile
from typing import Any, NamedTuple

import numpy as np

from gradflow._dtypes import is_inexact
from gradflow._errors import names_hint
from gradflow.checkpoint._state_paths import StatePath


class Entry(NamedTuple):
    """The path of a leaf, its dtype and shape, and whether it is a moment: a statistic of the gradients."""

    place: StatePath
    dtype: Any
    shape: tuple[int, ...]
    moment: bool = False


Entries = Mapping[str, Entry]


def find_moments(wanted: Entries, saved: Entries, known: frozenset[str]) -> tuple[Entries, Entries]:
    """Both sides with their moments marked; `known` are the paths of the parameters."""

    def is_moment(each: Entry) -> bool:
        # If the parameters are one array, all paths are empty, and only the dtype distinguishes counters.
        number = is_inexact(each.dtype)
        own = parameter_of(each.place, known) is not None and bool(each.place.path or number)
        return own or (number and each.shape != ())

    # A field with moments on one side has moments on the other.
    fields = {each.place[1:3] for side in (wanted, saved) for each in side.values() if is_moment(each)}
    marked = (
        {name: each._replace(moment=each.place[1:3] in fields) for name, each in side.items()}
        for side in (wanted, saved)
    )
    return next(marked), next(marked)


def parameter_of(place: StatePath, known: frozenset[str]) -> str | None:
    """The path of the parameter to which a leaf belongs; SM3 keeps several leaves per parameter."""
    words = place.path.split("/") if place.path else []
    above = ("/".join(words[:n]) for n in range(len(words), -1, -1))
    return next((path for path in above if path in known), None)


class Matching:
    """Pairs the names of a state with the entries of a mapping, in `pairs`.

    Entries of the same name and rule are pairs. Other moments go to the same rule, field and path. Counters
    go with the moments of their stage, and are reset where all of these are. Counters of stages without
    moments are matched like moments.
    """

    def __init__(self, wanted: Entries, saved: Entries, d: Mapping[str, Any], strict: bool) -> None:
        self.wanted, self.saved, self.d, self.strict = wanted, saved, d, strict
        self.pairs = {
            name: name
            for name, mine in wanted.items()
            if name in saved and saved[name].place.rule == mine.place.rule
        }
        self.reset: set[str] = set()
        self._match_the_rest(moments=True)
        self._pair_counters()
        self._match_the_rest(moments=False)

    def _match_the_rest(self, moments: bool) -> None:
        used = set(self.pairs.values())
        homes: dict[Any, list[str]] = defaultdict(list)
        free: dict[Any, list[str]] = defaultdict(list)
        for name, mine in self.wanted.items():
            if mine.moment == moments and name not in self.pairs and name not in self.reset:
                homes[mine.place[1:]].append(name)
        for name, old in self.saved.items():
            if old.moment == moments and name not in used:
                free[old.place[1:]].append(name)
        for what, names in homes.items():
            names, others = self._pair_nearest(names, free[what])
            if not names or not others:
                continue
            if not moments and self._are_equal(others):
                # A stage was split, or several were merged, with equal counts.
                self.pairs.update(dict.fromkeys(names, others[0]))
            elif self.strict:
                raise ValueError(
                    f"load_state_dict: entries must have one place each; got {some(others)} for "
                    f"{some(names)}. Rename the entries to the names that they belong to, or reset these "
                    "leaves with strict=False"
                )

    def _pair_nearest(self, names: list[str], others: list[str]) -> tuple[list[str], list[str]]:
        """Pairs names that share most labels with each other and with no other name; returns the rest."""
        while names and others:
            shared = {
                (n, o): _shared(self.wanted[n].place, self.saved[o].place) for n in names for o in others
            }
            best = max(shared.values())
            nearest = [pair for pair, count in shared.items() if count == best]
            mine, theirs = (Counter(side) for side in zip(*nearest, strict=True))
            sure = {n: o for n, o in nearest if mine[n] == theirs[o] == 1}
            if not sure:
                break
            self.pairs.update(sure)
            names = [n for n in names if n not in sure]
            others = [o for o in others if o not in sure.values()]
        return names, others

    def _are_equal(self, names: list[str]) -> bool:
        return all(np.array_equal(self.d[names[0]], self.d[name]) for name in names[1:])

    def _pair_counters(self) -> None:
        counters: dict[Any, dict[Any, str]] = defaultdict(dict)
        for name, old in self.saved.items():
            if not old.moment:
                counters[old.place[:2]][old.place[2:]] = name
        sources: dict[Any, dict[Any, None]] = {m.place[:2]: {} for m in self.wanted.values() if m.moment}
        for name, old_name in self.pairs.items():
            if self.wanted[name].moment:
                sources[self.wanted[name].place[:2]][self.saved[old_name].place[:2]] = None
        for name, mine in self.wanted.items():
            if mine.moment or mine.place[:2] not in sources:
                continue
            if not sources[mine.place[:2]]:
                self.reset.add(name)
                self.pairs.pop(name, None)
                continue
            what = mine.place[2:]
            found = [counters[stage][what] for stage in sources[mine.place[:2]] if what in counters[stage]]
            if not found or found == [self.pairs.get(name)]:
                continue
            if self.strict and not self._are_equal(found):
                raise ValueError(
                    f"load_state_dict: stages whose moments go to '{'.'.join(mine.place.stage)}' must have "
                    f"equal '{mine.place.field}'; got different ones: {some(found)}. strict=False takes the "
                    "first"
                )
            self.pairs[name] = found[0]


def _shared(place: StatePath, other: StatePath) -> int:
    """The number of labels that two paths share, counted from the stage outward."""
    both = zip(reversed(place.stage), reversed(other.stage), strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], both))


def check_no_loss(
    wanted: Entries, saved: Entries, kept: Mapping[str, str], dropped: Iterable[str], known: frozenset[str]
) -> None:
    """Raises ValueError if moments would be lost to another rule, or belong to unknown parameters."""
    per_parameter = {
        m.place[1:3] for m in wanted.values() if m.moment and parameter_of(m.place, known) is not None
    }
    for name in dropped:
        place = saved[name].place
        if place.path and place[1:3] in per_parameter and parameter_of(place, known) is None:
            raise ValueError(
                f"load_state_dict: entry '{name}' must be for a parameter of the tree; got '{place.path}'. "
                f"{names_hint(place.path, known)} Nothing was loaded; strict=False drops such entries"
            )
    lost = _without(saved, kept.values())
    begun = _without(wanted, kept)
    for (stage, rule), olds in lost.items():
        for (other, new_rule), news in begun.items():
            before, now = ({p.path for p in places} for places in (olds, news))
            in_another_form = rule == new_rule and not (before | now) <= known
            if not before & now and not in_another_form:
                continue  # the moments of other parameters
            fields = ", ".join(sorted({p.field for p in olds}))
            why = f"{rule} is not {new_rule}" if rule != new_rule else "it keeps them in another form"
            raise ValueError(
                f"load_state_dict: '{'.'.join(other)}' replaces '{'.'.join(stage)}' and cannot take its "
                f"moments ({fields}): {why}. Nothing was loaded; strict=False drops "
                f"{some([p.name for p in olds])} and starts with new ones"
            )


def _without(entries: Entries, kept: Iterable[str]) -> dict[Any, list[StatePath]]:
    """By stage and rule, the moments of parameters for which none is kept."""
    places = {name: each.place for name, each in entries.items() if each.moment}
    has_some = {(*places[name][:2], places[name].path) for name in kept if name in places}
    moments: dict[Any, list[StatePath]] = defaultdict(list)
    for place in places.values():
        if (*place[:2], place.path) not in has_some:
            moments[place[:2]].append(place)
    return moments


def some(names: Iterable[str]) -> str:
    """The first five names, and how many more there are, for an error message."""
    names = list(names)
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
