"""The document that the product keeps to (document.md), block by block."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

DOCUMENT = Path(__file__).with_name("document.md").read_text(encoding="utf-8")


def _blocks(text: str) -> Mapping[str, str]:
    """Every fenced block by the heading above it, numbered where one heading has several."""
    found: list[tuple[str, str]] = []
    heading, inside = "", None
    for line in text.splitlines(keepends=True):
        if line.startswith("```"):
            if inside is not None:
                found.append((heading, "".join(inside)))
            inside = [] if inside is None else None
        elif inside is not None:
            inside.append(line)
        elif line.startswith("#"):
            heading = line.lstrip("#").strip().strip("`")
    several = {name for name, count in Counter(name for name, _ in found).items() if count > 1}
    numbers: Counter[str] = Counter()
    blocks = {}
    for name, block in found:
        numbers[name] += 1
        blocks[f"{name} {numbers[name]}" if name in several else name] = block
    return blocks


BLOCKS = _blocks(DOCUMENT)


def block(name: str, *changes: tuple[str, str]) -> str:
    """A block to the letter, but for these changes; each must have something to change."""
    text = BLOCKS[name]
    for old, new in changes:
        assert old in text, f"{old!r} is not in the block {name!r}"
        text = text.replace(old, new)
    return text
