"""Settings of the test suite: the product's own, with keys and places of its own."""

import atexit
import os
import shutil
import tempfile
from urllib.parse import urlsplit, urlunsplit

if "OAUTHVAULT_DATA_DIR" not in os.environ:
    os.environ["OAUTHVAULT_DATA_DIR"] = tempfile.mkdtemp(prefix="oauthvault-tests-")
    atexit.register(shutil.rmtree, os.environ["OAUTHVAULT_DATA_DIR"], ignore_errors=True)
if worker := os.environ.get("PYTEST_XDIST_WORKER"):
    # Each process of pytest-xdist has files of its own too: a spool, an epoch, a broker.
    os.environ["OAUTHVAULT_DATA_DIR"] = os.path.join(os.environ["OAUTHVAULT_DATA_DIR"], worker)
if "REDIS_URL" in os.environ and (worker := os.environ.get("PYTEST_XDIST_WORKER")):
    # Each process of pytest-xdist has a database of its own, as in PostgreSQL.
    numbered = urlsplit(os.environ["REDIS_URL"])._replace(path=f"/{int(worker[2:]) + 1}")
    os.environ["REDIS_URL"] = urlunsplit(numbered)
os.environ.setdefault("CLAUDE_TOKEN_ENCRYPTION_KEY", "dGVzdHMgb25seTogbmV2ZXIgYSByZWFsIGtleSEhISE=")
os.environ.setdefault("OAUTHVAULT_WEB_THREADS", "16")

from oauthvault.env import child_environment
from oauthvault.settings import *  # noqa: F403
from oauthvault.settings import DATABASES, INSTALLED_APPS, OAUTHVAULT_DATA_DIR, ON_POSTGRESQL

# The settings take secrets out of the environment, DATABASE_URL among them. The processes
# that pytest-xdist starts must find them again, or they would run on SQLite in silence.
os.environ.update(child_environment())

# What `python -m tests` says it runs on is what it runs on.
assert os.environ.get("TESTS_RUN_ON") in {None, "postgresql" if ON_POSTGRESQL else "sqlite"}
if "owner" in DATABASES:
    # A mirror is told its database's name only after the migration, which it is for.
    test_name = f"test_{DATABASES['default']['NAME']}"
    DATABASES["default"]["TEST"] = {"NAME": test_name}
    of_worker = os.environ.get("PYTEST_XDIST_WORKER")
    DATABASES["owner"]["NAME"] = f"{test_name}_{of_worker}" if of_worker else test_name
if not ON_POSTGRESQL:
    # A file, not memory: several threads and processes use it, as in real life.
    DATABASES["default"]["TEST"] = {"NAME": str(OAUTHVAULT_DATA_DIR / "test.sqlite3")}

# Brings the `flush` that may empty the audit trail.
INSTALLED_APPS = [*INSTALLED_APPS, "tests.emptying"]
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
CELERY_BROKER_URL = "memory://"
CLOCK_OFFSET = float(os.environ.get("OAUTHVAULT_TEST_CLOCK_OFFSET", "0"))
WRITE_BEHIND_EVERY = None
# So long that no test sees its end.
FAILED_KEYS_WINDOW = 10**9
