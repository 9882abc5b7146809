"""JSON in which nothing is left to the reader's choice (RFC 8259, with unique names as in
RFC 7493 section 2.3)."""

import json
from collections import Counter
from typing import Any

from tokens.credential_file import shown_name


class GivenTwice(ValueError):
    """JSON, but an object in it has two members of one name, of which readers take either. As
    `shown_name` has it, for a token may stand in a name's place."""

    def __init__(self, name: str) -> None:
        super().__init__(f"{shown_name(name)} is given twice")
        self.name = shown_name(name)


def loads(text: str) -> Any:
    """The value. ValueError or RecursionError for what is no JSON, NaN and Infinity among it;
    GivenTwice only for what is JSON otherwise."""
    repeated: list[str] = []

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        members = dict(pairs)
        if len(members) < len(pairs):
            counted = Counter(name for name, _ in pairs)
            repeated.append(counted.most_common(1)[0][0])
        return members

    value = json.loads(text, object_pairs_hook=unique, parse_constant=_refuse_constant)
    if repeated:
        raise GivenTwice(repeated[0])
    return value


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")
