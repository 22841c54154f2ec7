"""The order of the laws: case after case, so that what a process compiled for one law serves the next."""

from pathlib import Path

import pytest
from specs import CASES

HERE = Path(__file__).parent


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    places = [place for place, item in enumerate(items) if HERE in item.path.parents]
    ranks = {case: rank for rank, case in enumerate(CASES)}

    def rank_of(item: pytest.Item) -> int:
        callspec = getattr(item, "callspec", None)
        return ranks.get(callspec.params.get("case"), -1) if callspec else -1

    for place, item in zip(places, sorted((items[p] for p in places), key=rank_of), strict=True):
        items[place] = item
