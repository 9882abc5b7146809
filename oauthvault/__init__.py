"""The Django project around the vault: settings, addresses, processes."""

__version__ = "0.1.0"
