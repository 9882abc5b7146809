"""One settings file, driven by the environment. See docs/configuration.md for every variable.

Nothing here is secret by itself, nothing is a default for a wrong value, and there is
no debug mode: an error page with local variables has no place beside other people's keys.
"""

import re
import secrets
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import dj_database_url

from oauthvault import __version__, datadir, env
from tokens.secret import EncryptionKey, Secret

BASE_DIR = Path(__file__).resolve().parent.parent
DEBUG = False

# --- Where things are kept -------------------------------------------------------------

OAUTHVAULT_DATA_DIR = datadir.prepare(Path(env.text("OAUTHVAULT_DATA_DIR", "data")).absolute())

SECRET_KEY = env.secret("OAUTHVAULT_SECRET_KEY") or datadir.read_or_create(
    OAUTHVAULT_DATA_DIR / "secret.key", lambda: secrets.token_urlsafe(50)
)


def _database(variable: str) -> dict[str, Any] | None:
    url = env.secret(variable)
    if url is None:
        return None
    try:
        parsed: dict[str, Any] = {**dj_database_url.parse(url)}
    except (ValueError, KeyError):
        # The message of the library would repeat the address, password and all.
        parsed = {}
    engine = str(parsed.get("ENGINE", ""))
    if engine.endswith(".postgresql") and parsed.get("NAME"):
        parsed["ENGINE"] = "oauthvault.postgresql"
        parsed["CONN_MAX_AGE"] = 60
        # After a restart of the database no request meets a connection of before it.
        parsed["CONN_HEALTH_CHECKS"] = True
        # A cursor of the server's cannot be told for whom it is (oauthvault.postgresql).
        parsed["DISABLE_SERVER_SIDE_CURSORS"] = True
        parsed["OPTIONS"] = {
            "connect_timeout": 5,
            # A database host that vanished is noticed in seconds, and not in hours.
            "keepalives_idle": 10,
            "keepalives_interval": 5,
            "keepalives_count": 3,
            "tcp_user_timeout": 20_000,
            "application_name": "oauthvault",
            **(parsed.get("OPTIONS") or {}),
            # Everything of ours lives in one schema, so that the database may be
            # LiteLLM's own; a rotated token that was acknowledged is on disk.
            "options": (
                "-c search_path=oauthvault -c synchronous_commit=on "
                # A process that is stopped in the middle holds up the others so long, and
                # whoever waits for its lock gives up before: a save then goes to the spool.
                "-c idle_in_transaction_session_timeout=30s -c lock_timeout=10s"
            ),
        }
        return parsed
    if engine.endswith(".sqlite3") and parsed.get("NAME"):
        return _sqlite(str(parsed["NAME"]))
    raise env.ConfigurationError(
        f"{variable} must look like postgresql://user:password@host:5432/database "
        "(or sqlite:////path/to/file)"
    )


def _sqlite(name: str) -> dict[str, Any]:
    return {
        "ENGINE": "django_prometheus.db.backends.sqlite3",
        "NAME": name,
        "CONN_MAX_AGE": 60,
        "OPTIONS": {
            "timeout": 20,
            "transaction_mode": "IMMEDIATE",
            "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;",
        },
    }


DATABASES: dict[str, dict[str, Any]] = {
    "default": _database("DATABASE_URL") or _sqlite(str(OAUTHVAULT_DATA_DIR / "oauthvault.sqlite3"))
}
ON_POSTGRESQL = DATABASES["default"]["ENGINE"].endswith("postgresql")

# The role that owns the tables and migrates them, where that is another one than the
# role that serves requests.
_owner = _database("OAUTHVAULT_MIGRATION_DATABASE_URL")
if _owner is not None:
    if not (ON_POSTGRESQL and _owner["ENGINE"].endswith("postgresql")):
        raise env.ConfigurationError(
            "OAUTHVAULT_MIGRATION_DATABASE_URL needs PostgreSQL, here and in DATABASE_URL"
        )
    DATABASES["owner"] = _owner | {"CONN_MAX_AGE": 0, "TEST": {"MIRROR": "default"}}

REDIS_URL = Secret(_redis) if (_redis := env.secret("REDIS_URL")) else None
if REDIS_URL is not None and not REDIS_URL.reveal().startswith(
    ("redis://", "rediss://", "unix://")
):
    raise env.ConfigurationError("REDIS_URL must look like redis://host:6379/0")

_OWN_MEMORY = {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}
CACHES: dict[str, dict[str, Any]] = {
    # What libraries keep for themselves, objects of theirs among it: in this process.
    "default": _OWN_MEMORY,
    # What processes tell each other (oauthvault.cache).
    "shared": {
        "BACKEND": "django.core.cache.backends.redis.RedisCache",
        "LOCATION": REDIS_URL.reveal(),
        "KEY_PREFIX": "oauthvault",
        "OPTIONS": {
            "serializer": "oauthvault.cache.JsonSerializer",
            # Seconds. A Redis that hangs is found out, and not waited for.
            "socket_connect_timeout": 2,
            "socket_timeout": 2,
        },
    }
    if REDIS_URL is not None
    else _OWN_MEMORY | {"LOCATION": "shared"},
}

# --- Keys ------------------------------------------------------------------------------

# The first wraps, the others are good for opening. Empty when none is given: then the key
# file of the data directory counts, which `oauthvault init` makes on the first start
# (tokens/keyring.py).
_primary = env.secret("CLAUDE_TOKEN_ENCRYPTION_KEY")
_fallbacks = [
    key
    for key in re.split(r"[\s,]+", env.secret("CLAUDE_TOKEN_ENCRYPTION_KEY_FALLBACKS") or "")
    if key
]
if _fallbacks and _primary is None:
    raise env.ConfigurationError(
        "CLAUDE_TOKEN_ENCRYPTION_KEY_FALLBACKS needs CLAUDE_TOKEN_ENCRYPTION_KEY beside it: "
        "which of the keys wraps must be said"
    )
ENCRYPTION_KEYS = [EncryptionKey(key) for key in [_primary, *_fallbacks] if key]
ENCRYPTION_KEY_FILE = OAUTHVAULT_DATA_DIR / "encryption.key"

# --- The credential given by the environment -------------------------------------------

CLAUDE_ACCESS_TOKEN = Secret(_value) if (_value := env.secret("CLAUDE_ACCESS_TOKEN")) else None
CLAUDE_REFRESH_TOKEN = Secret(_value) if (_value := env.secret("CLAUDE_REFRESH_TOKEN")) else None
CLAUDE_EXPIRES_AT = env.integer("CLAUDE_EXPIRES_AT", 0, least=1, most=9_999_999_999_999) or None
if (CLAUDE_ACCESS_TOKEN is None) != (CLAUDE_EXPIRES_AT is None):
    raise env.ConfigurationError(
        "CLAUDE_ACCESS_TOKEN and CLAUDE_EXPIRES_AT (Unix time) must be given together"
    )
if CLAUDE_REFRESH_TOKEN is not None and CLAUDE_ACCESS_TOKEN is None:
    raise env.ConfigurationError(
        "CLAUDE_REFRESH_TOKEN needs CLAUDE_ACCESS_TOKEN and CLAUDE_EXPIRES_AT beside it"
    )

# --- The authorization server and the refresh ------------------------------------------

CLAUDE_OAUTH_TOKEN_URL = env.http_url(
    "CLAUDE_OAUTH_TOKEN_URL", "https://platform.claude.com/v1/oauth/token"
)
CLAUDE_OAUTH_CLIENT_ID = env.text("CLAUDE_OAUTH_CLIENT_ID", "9d1c250a-e61b-44d9-88ed-5944d1962f5e")
CLAUDE_OAUTH_REVOKE_URL = env.http_url("CLAUDE_OAUTH_REVOKE_URL")
CLAUDE_OAUTH_AUTO_REFRESH = env.boolean("CLAUDE_OAUTH_AUTO_REFRESH", True)
CLAUDE_OAUTH_REFRESH_THRESHOLD = env.integer(
    "CLAUDE_OAUTH_REFRESH_THRESHOLD", 300, least=1, most=86_400
)
CLAUDE_OAUTH_MAX_RETRIES = env.integer("CLAUDE_OAUTH_MAX_RETRIES", 3, least=0, most=10)
CLAUDE_OAUTH_RETRY_BACKOFF = env.choice(
    "CLAUDE_OAUTH_RETRY_BACKOFF", "exponential", ["exponential", "linear", "fixed"]
)
# Seconds. The whole exchange with the authorization server ends well before the lease
# that protects it does.
REFRESH_DEADLINE = 30.0
REFRESH_LEASE = 45.0
# A lease that has more than this left beside its whole length was given by a clock that was
# far ahead and has been set right. Well above what the clocks of processes differ by.
CLOCK_SLACK = 1800.0
# A refresh token whose first presentation had no answer is presented once more, never again.
MOST_PRESENTATIONS = 2
# Seconds for which an answer that is not saved yet is only in the memory of its process.
# Then it is put down where a kill cannot reach it, well before the lease ends.
SPOOL_AFTER = 3.0
# Seconds by which the second presentation waits longer where an answer to the first may
# lie in a place that this process cannot look into.
SPOOL_GRACE = 120.0
# Days after which whole batches of the audit trail are dropped. A year for whoever audits
# it, and a month to notice; names and addresses of people are not kept for ever by default.
OAUTHVAULT_AUDIT_DAYS = env.integer("OAUTHVAULT_AUDIT_DAYS", 400, least=30, most=36_500)
# The same for refreshes that ended, and for hand-outs by the minute.
OAUTHVAULT_HISTORY_DAYS = env.integer("OAUTHVAULT_HISTORY_DAYS", 90, least=7, most=36_500)
# Seconds between two writings of what is gathered behind requests (tokens/behind.py).
# None: only when asked to (tests).
WRITE_BEHIND_EVERY: float | None = 3.0
# Seconds in which keys that are not good are counted together (api/throttle.py).
FAILED_KEYS_WINDOW = 60

# --- First operator, first key, who sees what ------------------------------------------

OAUTHVAULT_ADMIN_USER = env.text("OAUTHVAULT_ADMIN_USER", "admin")
OAUTHVAULT_ADMIN_PASSWORD = (
    Secret(_value) if (_value := env.secret("OAUTHVAULT_ADMIN_PASSWORD")) else None
)
# Who must have a second factor: nobody, whoever looks after every tenant, or everybody.
OAUTHVAULT_ADMIN_SECOND_FACTOR = env.choice(
    "OAUTHVAULT_ADMIN_SECOND_FACTOR", "optional", ["optional", "required", "required_for_all"]
)
# Seconds that a session of the dashboard lasts without a request, and in all.
OAUTHVAULT_ADMIN_SESSION_LIFE = env.integer(
    "OAUTHVAULT_ADMIN_SESSION_LIFE", 12 * 3600, least=300, most=30 * 86_400
)
OAUTHVAULT_ADMIN_SESSION_IDLE = env.integer(
    "OAUTHVAULT_ADMIN_SESSION_IDLE",
    min(3600, OAUTHVAULT_ADMIN_SESSION_LIFE),
    least=300,
    most=OAUTHVAULT_ADMIN_SESSION_LIFE,
)
OAUTHVAULT_SERVICE_KEY = (
    Secret(_value) if (_value := env.secret("OAUTHVAULT_SERVICE_KEY")) else None
)
if OAUTHVAULT_SERVICE_KEY is not None and not re.fullmatch(
    r"ovs_[A-Za-z0-9_-]{43,200}", OAUTHVAULT_SERVICE_KEY.reveal()
):
    raise env.ConfigurationError(
        "OAUTHVAULT_SERVICE_KEY must be ovs_ and at least 43 characters of base64url "
        "(letters, digits, - and _)"
    )
OAUTHVAULT_METRICS_TOKEN = (
    Secret(_value) if (_value := env.secret("OAUTHVAULT_METRICS_TOKEN")) else None
)
if OAUTHVAULT_METRICS_TOKEN is not None and not re.fullmatch(
    r"[!-~]{16,}", OAUTHVAULT_METRICS_TOKEN.reveal()
):
    raise env.ConfigurationError(
        "OAUTHVAULT_METRICS_TOKEN must be at least 16 characters of ASCII without blanks, as "
        "`openssl rand -hex 32` prints them"
    )
OAUTHVAULT_PUBLIC_STATS = env.boolean("OAUTHVAULT_PUBLIC_STATS", True)

# --- Web -------------------------------------------------------------------------------

OAUTHVAULT_HOST = env.text("OAUTHVAULT_HOST", "127.0.0.1")
OAUTHVAULT_PORT = env.integer("OAUTHVAULT_PORT", 8000, least=1, most=65_535)
OAUTHVAULT_BASE_URL = env.http_url("OAUTHVAULT_BASE_URL", f"http://127.0.0.1:{OAUTHVAULT_PORT}")
# Whose word about a caller's address is believed, and in which header. None: nobody's.
OAUTHVAULT_TRUSTED_PROXIES = env.networks("OAUTHVAULT_TRUSTED_PROXIES")
OAUTHVAULT_CLIENT_ADDRESS_HEADER = env.choice(
    "OAUTHVAULT_CLIENT_ADDRESS_HEADER",
    "X-Forwarded-For",
    ["X-Forwarded-For", "X-Real-IP", "Forwarded"],
)
# SQLite has one writer: more threads would only wait for each other.
OAUTHVAULT_WEB_WORKERS = env.integer(
    "OAUTHVAULT_WEB_WORKERS", 2 if ON_POSTGRESQL else 1, least=1, most=64
)
OAUTHVAULT_WEB_THREADS = env.integer(
    "OAUTHVAULT_WEB_THREADS", 8 if ON_POSTGRESQL else 2, least=2, most=64
)
# Refreshes that one worker process does at the same time. They wait for the far side nearly
# all of their time; SQLite has one writer.
OAUTHVAULT_WORKER_CONCURRENCY = env.integer(
    "OAUTHVAULT_WORKER_CONCURRENCY", 32 if ON_POSTGRESQL else 8, least=1, most=256
)
# Refreshes of the whole deployment, and of one tenant, that the scheduler has under way at
# the same time, whatever the number of workers.
OAUTHVAULT_REFRESHES_AT_ONCE = env.integer(
    "OAUTHVAULT_REFRESHES_AT_ONCE", 64 if ON_POSTGRESQL else 16, least=1, most=10_000
)
OAUTHVAULT_REFRESHES_AT_ONCE_PER_TENANT = env.integer(
    "OAUTHVAULT_REFRESHES_AT_ONCE_PER_TENANT",
    max(1, OAUTHVAULT_REFRESHES_AT_ONCE * 3 // 4),
    least=1,
    most=OAUTHVAULT_REFRESHES_AT_ONCE,
)

_base_url = urlsplit(OAUTHVAULT_BASE_URL)
ALLOWED_HOSTS = [
    *env.words("OAUTHVAULT_ALLOWED_HOSTS", ["127.0.0.1", "localhost", "[::1]"]),
    *([_base_url.hostname] if _base_url.hostname else []),
]
_https = _base_url.scheme == "https"
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = _https
SESSION_COOKIE_HTTPONLY = CSRF_COOKIE_HTTPONLY = True
if _https:
    # A browser takes a cookie of such a name only from this host itself, by TLS, for all paths.
    SESSION_COOKIE_NAME, CSRF_COOKIE_NAME = "__Host-sessionid", "__Host-csrftoken"
SESSION_COOKIE_AGE = OAUTHVAULT_ADMIN_SESSION_LIFE
# Where a sign-in leads that was not on the way to a page.
LOGIN_URL, LOGIN_REDIRECT_URL = "admin:login", "admin:index"
# What an operator was told stays here with the session: no cookie of its own, which would
# hold user ids and be readable.
MESSAGE_STORAGE = "django.contrib.messages.storage.session.SessionStorage"
CSRF_TRUSTED_ORIGINS = [f"{_base_url.scheme}://{_base_url.netloc}"]
SECURE_HSTS_SECONDS = 31_536_000 if _https else 0
SECURE_HSTS_INCLUDE_SUBDOMAINS = SECURE_HSTS_PRELOAD = _https
SECURE_REFERRER_POLICY = SECURE_CROSS_ORIGIN_OPENER_POLICY = "same-origin"
CSRF_FAILURE_VIEW = "api.problems.csrf_failure"
X_FRAME_OPTIONS = "DENY"
SILENCED_SYSTEM_CHECKS = [
    # TLS ends at the proxy in front. To redirect plain HTTP is that proxy's work: a
    # redirect from here would answer a bearer that has already crossed the wire.
    "security.W008",
]

INSTALLED_APPS = [
    # First, because its `migrate` makes the schema and hands out the rights.
    "oauthvault",
    "unfold",
    "unfold.contrib.filters",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "django_prometheus",
    "rest_framework",
    "drf_spectacular",
    "drf_spectacular_sidecar",
    "tokens",
    "api",
]

MIDDLEWARE = [
    "django_prometheus.middleware.PrometheusBeforeMiddleware",
    "oauthvault.middleware.request_id",
    "oauthvault.middleware.isolated",
    "oauthvault.middleware.client_address",
    "oauthvault.browsers.browser_policy",
    "api.bodies.bounded",
    "django.middleware.security.SecurityMiddleware",
    "api.downloads.whole_files",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django_otp.middleware.OTPMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "api.gate.guarded",
    "api.bodies.bounded_upload",
    "api.operators.at_work",
    "api.downloads.one_at_a_time",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "django_prometheus.middleware.PrometheusAfterMiddleware",
]

ROOT_URLCONF = "oauthvault.urls"
WSGI_APPLICATION = "oauthvault.wsgi.application"
APPEND_SLASH = True
DATA_UPLOAD_MAX_MEMORY_SIZE = 64 * 1024
# Files hold tokens: in memory, and never on a disk. A whole body of the page that takes them has
# a file, what is pasted, and what a form needs around it.
FILE_UPLOAD_HANDLERS = ["django.core.files.uploadhandler.MemoryFileUploadHandler"]
IMPORT_FILE_MOST = 5 * 1024 * 1024
FILE_UPLOAD_MAX_MEMORY_SIZE = IMPORT_FILE_MOST + 2 * DATA_UPLOAD_MAX_MEMORY_SIZE

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates", Path(__file__).parent / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
                "tokens.admin.sessions.messages_for_a_person",
            ],
        },
    }
]

AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{name}"}
    for name in (
        "UserAttributeSimilarityValidator",
        "MinimumLengthValidator",
        "CommonPasswordValidator",
        "NumericPasswordValidator",
    )
]

DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
LANGUAGE_CODE = "en"
TIME_ZONE = "UTC"
USE_TZ = True

STATIC_URL = "/static/"
STATIC_ROOT = Path(env.text("OAUTHVAULT_STATIC_ROOT", str(OAUTHVAULT_DATA_DIR / "static")))
STATIC_ROOT.mkdir(parents=True, exist_ok=True)  # WhiteNoise warns where there is none
# Served from the packages where they lie: nothing to collect before the first start.
WHITENOISE_USE_FINDERS = True
WHITENOISE_AUTOREFRESH = False

REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": ["api.authentication.BearerKeyAuthentication"],
    "DEFAULT_PERMISSION_CLASSES": ["api.permissions.HasScope"],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_PARSER_CLASSES": ["rest_framework.parsers.JSONParser"],
    "DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema",
    "EXCEPTION_HANDLER": "api.problems.exception_handler",
    "UNAUTHENTICATED_USER": None,
}

SPECTACULAR_SETTINGS = {
    "TITLE": "oauthvault",
    "DESCRIPTION": "The vault of a team's Claude OAuth credentials. Times are Unix seconds.",
    "VERSION": __version__,
    "ENUM_GENERATE_CHOICE_DESCRIPTION": False,
    "ENUM_NAME_OVERRIDES": {
        "StatusOfCredential": "tokens.models.Status",
        "StatusOfVault": ["healthy", "degraded", "unhealthy"],
        "Liveness": ["alive"],
        "Readiness": ["ready", "not ready"],
    },
    "PREPROCESSING_HOOKS": ["api.openapi.without_slash_twins"],
    "OAS_VERSION": "3.1.0",
    "SERVE_INCLUDE_SCHEMA": False,
    "SERVE_AUTHENTICATION": [],
    "SERVE_PERMISSIONS": [],
}

# --- Celery ----------------------------------------------------------------------------

_broker_files = OAUTHVAULT_DATA_DIR / "broker"
if REDIS_URL is None:
    for _folder in ("messages", "control"):
        (_broker_files / _folder).mkdir(mode=0o700, parents=True, exist_ok=True)
CELERY_BROKER_URL = REDIS_URL.reveal() if REDIS_URL is not None else "filesystem://"
CELERY_BROKER_TRANSPORT_OPTIONS: dict[str, Any] = (
    # A message that was taken and not finished within this time is delivered again.
    {
        "visibility_timeout": 300,
        # Seconds. A broker that hangs is found out, and not waited for.
        "socket_connect_timeout": 5,
        "socket_timeout": 30,
        "socket_keepalive": True,
    }
    if REDIS_URL is not None
    else {
        "data_folder_in": str(_broker_files / "messages"),
        "data_folder_out": str(_broker_files / "messages"),
        "control_folder": str(_broker_files / "control"),
    }
)
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_TASK_IGNORE_RESULT = True
CELERY_TASK_SERIALIZER = "json"
CELERY_ACCEPT_CONTENT = ["json"]
CELERY_TASK_DEFAULT_QUEUE = "oauthvault"
CELERY_WORKER_HIJACK_ROOT_LOGGER = False
CELERY_WORKER_PREFETCH_MULTIPLIER = 1
CELERY_TIMEZONE = "UTC"
# At least every 20 s, and at least twice in a threshold.
SWEEP_INTERVAL = max(1.0, min(20.0, CLAUDE_OAUTH_REFRESH_THRESHOLD / 2))
CELERY_BEAT_SCHEDULE: dict[str, dict[str, Any]] = {
    "sweep": {
        "task": "tokens.sweep",
        "schedule": SWEEP_INTERVAL,
        # A beat that was away must not leave a heap of sweeps behind it.
        "options": {"expires": SWEEP_INTERVAL},
    },
}

# --- Logging, admin --------------------------------------------------------------------

LOG_LEVEL = env.choice("OAUTHVAULT_LOG_LEVEL", "INFO", ["DEBUG", "INFO", "WARNING", "ERROR"])
LOGGING_CONFIG = "oauthvault.logging.configure"
LOGGING: dict[str, Any] = {"level": LOG_LEVEL}

PROMETHEUS_EXPORT_MIGRATIONS = False

UNFOLD: dict[str, Any] = {
    "SITE_TITLE": "oauthvault",
    "SITE_HEADER": "oauthvault",
    "SITE_SYMBOL": "key",
    "SITE_FAVICONS": [
        {"rel": "icon", "type": "image/svg+xml", "href": "tokens.admin.site.favicon"},
    ],
    # There is no other site to return to.
    "SITE_URL": None,
    "SHOW_VIEW_ON_SITE": False,
    "BORDER_RADIUS": "6px",
    # All of it served from here; no page loads anything from another host.
    "STYLES": ["tokens.admin.site.stylesheet"],
    "SCRIPTS": ["tokens.admin.site.access_script", "tokens.admin.site.times_script"],
    "SIDEBAR": {"navigation": "tokens.admin.site.navigation"},
    "ACCOUNT": {"navigation": "tokens.admin.site.account_links"},
    "DASHBOARD_CALLBACK": "tokens.admin.dashboard.context",
}

# A difference, in seconds, between the vault's clock and the database's: zero, and
# read from nowhere. Tests put another value here (tests/settings.py).
CLOCK_OFFSET = 0.0
