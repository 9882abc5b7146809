"""Operators' rooms. Nothing in here opens a token, and none of its queries reads a sealed one."""

from tokens.admin import audit, credentials, jobs, operators, sessions, tenants

__all__ = ["audit", "credentials", "jobs", "operators", "sessions", "tenants"]
