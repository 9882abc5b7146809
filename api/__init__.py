"""The `/auth/claude` API: who is asking, and what shape comes back."""
