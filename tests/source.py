"""What stands in the house's own files, for tests that read them."""

import ast


def tree_of(source: str) -> ast.Module:
    """Parsed. Where another thread formats a traceback in the same moment, which parses too,
    Python 3.11 and 3.12 take the one for the other (python/cpython#106905): then once more."""
    for _ in range(5):
        try:
            return ast.parse(source)
        except SystemError:
            continue
    return ast.parse(source)
