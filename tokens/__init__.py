"""What a credential is, and everything that may be done with one."""
