"""Operators' rooms. Nothing in here opens a token."""
