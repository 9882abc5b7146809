"""What people call things: names of tenants, labels of keys."""

import unicodedata

LONGEST = 200
# Controls, halves of characters, ends of lines and of paragraphs.
_NEVER = frozenset({"Cc", "Cs", "Zl", "Zp"})


def checked_label(text: str) -> str:
    """The text. ValueError, with what is said of it, for what is too long or no line of text."""
    if len(text) > LONGEST:
        raise ValueError(f"has at most {LONGEST} characters")
    if any(unicodedata.category(sign) in _NEVER for sign in text):
        raise ValueError("has no control characters and no ends of lines")
    return text
