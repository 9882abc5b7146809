"""What others have written, as a terminal may be shown it.

A name is what somebody once typed, or put into the database past the vault. What moves the
cursor, hides the rest of a line or turns it around would have a command say what it does not.
"""

import json
import unicodedata

# Control and format characters, halves of characters, ends of lines and of paragraphs.
_OBEYED = {"Cc", "Cf", "Cs", "Zl", "Zp"}


def printable(text: str) -> str:
    """The text in one line, with escapes (as Python and JSON write them) for what a terminal
    would obey."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(_escaped(sign) for sign in text)


def printable_lines(text: str) -> str:
    """The same for text that may have several lines of its own."""
    return "\n".join(map(printable, text.split("\n")))


def printable_json(value: object, *, indent: int | None = None) -> str:
    """JSON that says the same as ever, and is one line to everybody who splits lines."""
    text = json.dumps(value, indent=indent, ensure_ascii=False)
    # What is not ASCII stands in strings only, and DEL too: there an escape is what it stands for.
    return text if text.isascii() and "\x7f" not in text else "".join(map(_in_json, text))


def _escaped(sign: str) -> str:
    return sign.encode("unicode_escape").decode() if unicodedata.category(sign) in _OBEYED else sign


def _in_json(sign: str) -> str:
    if sign < "\x7f" or unicodedata.category(sign) not in _OBEYED:
        return sign
    return "\\u007f" if sign == "\x7f" else json.dumps(sign)[1:-1]
