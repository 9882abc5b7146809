#!/usr/bin/env python3
"""The same commands as the console script ``oauthvault``."""

from oauthvault.cli import main

if __name__ == "__main__":
    main()
