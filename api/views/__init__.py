"""Thin: check who, read the clock, ask the vault once, shape the answer."""
