"""Django settings, from the environment, `.env` and `opsconsole.toml`. Each default works on one machine."""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path
from typing import Any, TypeVar
from zoneinfo import ZoneInfo

import structlog
from django.core.cache.backends.base import CacheKeyWarning
from django.core.exceptions import ImproperlyConfigured
from django.templatetags.static import static
from django.urls import reverse_lazy
from django.utils.translation import gettext_lazy as _

from opsconsole import env as read
from opsconsole.config_file import ConfigFile, StoreEntry
from opsconsole.env import Environment, Parser, read_file
from opsconsole.redaction import redact_line
from opsconsole.stores.config import LOCK_SECONDS, database
from opsconsole.stores.secret import secret_key

T = TypeVar("T")
BASE_DIR = Path(__file__).resolve().parent.parent

env = Environment()
ENV_FILE = env("OPSCONSOLE_ENV_FILE", read.path, None)
read_file(ENV_FILE or BASE_DIR / ".env", os.environ, required=ENV_FILE is not None)

# --- the console itself -------------------------------------------------------------------------

ENVIRONMENT = env("OPSCONSOLE_ENVIRONMENT", read.choice("development", "staging", "production"), "development")
PRODUCTION = ENVIRONMENT == "production"
DATA_DIR = env("OPSCONSOLE_DATA_DIR", read.folder, BASE_DIR / "data")
CONFIG_FILE = env("OPSCONSOLE_CONFIG", read.path, None)
config = ConfigFile(CONFIG_FILE or DATA_DIR / "opsconsole.toml", required=CONFIG_FILE is not None)


def policy(name: str, parse: Parser[T], default: T) -> T:
    """Return a lifetime or a limit: from the variable, else from `[policies]` of the file."""
    return env(name, parse, config.policy(name, parse, default))


CONFIG_PATH = config.path
WORKERS = env("OPSCONSOLE_WORKERS", read.whole_number(1, 64), 2)
env("OPSCONSOLE_TOKEN", read.bearer_token, "", secret=True)  # read by cli/accounts.py

# --- Django -------------------------------------------------------------------------------------

DEBUG = env("DEBUG", read.boolean, False)
SECRET_KEY = env("SECRET_KEY", read.text, "", secret=True) or secret_key(DATA_DIR, production=PRODUCTION)
AUDIT_LOG_KEY = env("AUDIT_LOG_KEY", read.key, "", secret=True) or SECRET_KEY  # seals the audit log
AUDIT_LOG_KEY_FALLBACKS: list[str] = env("AUDIT_LOG_KEY_FALLBACKS", read.listed(read.former_key), [], secret=True)
ALLOWED_HOSTS = env("ALLOWED_HOSTS", read.listed(read.allowed_host), ["localhost", "127.0.0.1", "[::1]"])
CSRF_TRUSTED_ORIGINS: list[str] = env("CSRF_TRUSTED_ORIGINS", read.listed(read.origin), [])
# The links in messages begin with it.
OPSCONSOLE_URL: str = env(
    "OPSCONSOLE_URL",
    read.base_url,
    next((origin for origin in CSRF_TRUSTED_ORIGINS if "*" not in origin), read.DEFAULT_URL),
)
TRUSTED_PROXIES: list[Any] = env("TRUSTED_PROXIES", read.listed(read.proxy), [])
INTERNAL_IPS = ["127.0.0.1"]
ROOT_URLCONF = "opsconsole.urls"
WSGI_APPLICATION = "opsconsole.wsgi.application"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

# Apps of further platforms. Each declares its store, see docs/writing-operations.md.
PLATFORM_APPS: list[str] = env("OPSCONSOLE_APPS", read.listed(read.package), [])
INSTALLED_APPS = [
    "unfold",
    "unfold.contrib.filters",
    "unfold.contrib.import_export",
    "django.contrib.admin.apps.SimpleAdminConfig",  # urls.py loads the admin modules, most commands do not need them
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "whitenoise.runserver_nostatic",
    "django.contrib.staticfiles",
    "django_extensions",
    "django_q",
    "axes",
    "csp",
    "django_structlog",
    "opsconsole.stores",
    "opsconsole.engine",
    "opsconsole.accounts",
    "opsconsole.backups",
    "opsconsole.console",
    "opsconsole.cli",
    "opsconsole.api",
    "import_export",  # after opsconsole.cli, which disables its commands
    "tasks.agentos",
    "audits",
    "tasks.helix",
    "tasks.records",
    "roadmaps",
    *PLATFORM_APPS,
    "opsconsole.monitoring",  # after the platforms: its sample data measures theirs
]

for _app in PLATFORM_APPS:
    if INSTALLED_APPS.count(_app) > 1:
        raise ImproperlyConfigured(f"OPSCONSOLE_APPS contains {_app!r}. This app is already installed. Remove it.")

MIDDLEWARE = [
    "opsconsole.console.middleware.TrustedProxyMiddleware",
    "django.middleware.security.SecurityMiddleware",
    "opsconsole.console.middleware.StaticFilesMiddleware",
    # Against BREACH, it adds a random number of bytes to each response, and Django masks the CSRF token of each page.
    "django.middleware.gzip.GZipMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "opsconsole.console.store_urls.StoreMiddleware",  # before the middleware that reads the URL configuration
    "django.middleware.locale.LocaleMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "opsconsole.accounts.sessions.SessionLimitsMiddleware",
    "django.contrib.auth.middleware.LoginRequiredMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "opsconsole.console.sent_forms.SentFormMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "csp.middleware.CSPMiddleware",
    "django_structlog.middlewares.RequestMiddleware",
    "axes.middleware.AxesMiddleware",
    "opsconsole.console.middleware.ErrorPageMiddleware",
    "opsconsole.console.store_errors.StoreErrorMiddleware",
    # After StoreErrorMiddleware: an invalid query string is not an error of a store.
    "opsconsole.console.middleware.BadQueryMiddleware",
]

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    },
]

# --- databases: the console's own and one per store ------------------------------------------------

# Set by wsgi.py only: qcluster forks, and a pool does not survive a fork.
POOL = env("OPSCONSOLE_POOL", read.boolean, False)
# Web threads and workers wait briefly for locks of a store, so that their other work does not wait too.
STORE_LOCK_SECONDS = 1.0 if POOL or sys.argv[1:2] == ["qcluster"] else LOCK_SECONDS
PLATFORMS = tuple(dict.fromkeys(("agentos", "helix", "records", "roadmaps", *map(read.store_of_app, PLATFORM_APPS))))
_stores = config.stores(PLATFORMS, env)
STORES = {alias: entry.platform for alias, entry in _stores.items()}  # alias → platform, empty for none
STORE_TITLES = {alias: entry.title for alias, entry in _stores.items() if entry.title}
ATTACHED_STORES = frozenset(alias for alias, entry in _stores.items() if entry.attached)
_own = StoreEntry(
    "default",
    "default",
    database=env("DATABASE_URL", read.database_url, None, secret=True),
    password=env("DATABASE_PASSWORD", read.text, "", secret=True),
    source="DATABASE_URL",
)


def _database(entry: StoreEntry) -> dict[str, object]:
    embedded = {"ENGINE": read.SQLITE, "NAME": f"{DATA_DIR / entry.alias}.sqlite3"}
    try:
        return database(
            entry.database or embedded,
            password=entry.password,
            attached=entry.attached,
            pool=POOL,
            lock_seconds=LOCK_SECONDS if entry is _own else STORE_LOCK_SECONDS,
        )
    except ImproperlyConfigured as error:
        raise ImproperlyConfigured(f"{entry.source} cannot be used. {error}") from None


DATABASES = {alias: _database(entry) for alias, entry in {"default": _own, **_stores}.items()}
DATABASE_ROUTERS = ["opsconsole.stores.router.StoreRouter"]
SILENCED_SYSTEM_CHECKS = ["models.W035"]  # AgentOS and HELIX both have a table `tasks`, each in its own store

# --- caches ---------------------------------------------------------------------------------------------

# Keys of the live cache are ids of platforms, with any characters. memcached is not supported.
warnings.filterwarnings("ignore", category=CacheKeyWarning)
CACHES = {
    # In memory, so that pages depend on no cache server and trust no shared data.
    "default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache", "LOCATION": "console"},
    "live": env("CACHE_URL", read.cache_url, read.cache_url("locmemcache://"), secret=True),
}

# --- accounts and sessions ---------------------------------------------------------------------------------------

AUTHENTICATION_BACKENDS = [
    "axes.backends.AxesStandaloneBackend",
    "django.contrib.auth.backends.ModelBackend",
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
SESSION_ENGINE = "opsconsole.accounts.sessions"
SESSION_HOURS = policy("SESSION_HOURS", read.number(0.1, 8760), 12.0 if PRODUCTION else 336.0)
SESSION_IDLE_HOURS = policy("SESSION_IDLE_HOURS", read.number(0.1, 8760), 1.0 if PRODUCTION else 336.0)
SESSION_COOKIE_AGE = int(SESSION_HOURS * 3600)
TOKEN_DAYS = policy("TOKEN_DAYS", read.whole_number(1, 3650), 90)
LOGIN_URL = "admin:login"
LOGIN_REDIRECT_URL = "admin:index"
AXES_HANDLER = "opsconsole.accounts.lockout.LockoutHandler"
AXES_FAILURE_LIMIT = 5  # per account and address, so that a stranger cannot lock an account
AXES_COOLOFF_TIME = 0.25  # hours
AXES_RESET_ON_SUCCESS = True
AXES_LOCKOUT_PARAMETERS = [["username", "ip_address"]]
AXES_ENABLE_ADMIN = False
AXES_LOCKOUT_TEMPLATE = "429.html"

# --- security -------------------------------------------------------------------------------------

SECURE_CONTENT_TYPE_NOSNIFF = True
SECURE_REFERRER_POLICY = "same-origin"
X_FRAME_OPTIONS = "DENY"
FILE_UPLOAD_HANDLERS = [
    "opsconsole.console.uploads.CappedUpload",
    "django.core.files.uploadhandler.MemoryFileUploadHandler",
    "django.core.files.uploadhandler.TemporaryFileUploadHandler",
]
SESSION_COOKIE_HTTPONLY = True
if TRUSTED_PROXIES:
    SECURE_PROXY_SSL_HEADER = (
        "HTTP_X_FORWARDED_PROTO",
        "https",
    )  # removed from other clients
if PRODUCTION:
    SECURE_SSL_REDIRECT = env("SECURE_SSL_REDIRECT", read.boolean, True)
    SECURE_REDIRECT_EXEMPT = [r"^(healthz|readyz|metrics)$"]  # requested inside the network without TLS
    SECURE_HSTS_SECONDS = env("SECURE_HSTS_SECONDS", read.whole_number(0, 315_360_000), 31_536_000)
    SECURE_HSTS_INCLUDE_SUBDOMAINS = True
    SECURE_HSTS_PRELOAD = True
    SESSION_COOKIE_SECURE = True
    CSRF_COOKIE_SECURE = True

# Alpine of the theme needs eval, and its widgets need inline styles. All else comes from our own origin.
CONTENT_SECURITY_POLICY = {
    "DIRECTIVES": {
        "default-src": ["'self'"],
        "script-src": ["'self'", "'unsafe-eval'"],
        "style-src": ["'self'", "'unsafe-inline'"],
        "img-src": ["'self'", "data:"],
        "frame-ancestors": ["'none'"],
        "form-action": ["'self'"],
        "base-uri": ["'self'"],
        "object-src": ["'none'"],
    },
}

# --- language and time ------------------------------------------------------------------------------

LANGUAGES = [("en", _("English")), ("zh-hans", _("Simplified Chinese"))]
LANGUAGE_CODE = env("OPSCONSOLE_LANGUAGE", read.choice(*dict(LANGUAGES)), "en")
LOCALE_PATHS = [BASE_DIR / "opsconsole" / name for name in ("locale", "locale_theme")]
TIME_ZONE = env("OPSCONSOLE_TIME_ZONE", read.zone, ZoneInfo("UTC")).key
USE_TZ = True
USE_THOUSAND_SEPARATOR = True
FORMAT_MODULE_PATH = "opsconsole.formats"

# --- static files -----------------------------------------------------------------------------------

STATIC_URL = "static/"
STATIC_ROOT = DATA_DIR / "static"  # a web process collects the files; only those of the manifest are served
STATICFILES_FINDERS = [
    "django.contrib.staticfiles.finders.AppDirectoriesFinder",
    "opsconsole.console.static_files.ApiDocumentFinder",
]
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.ManifestStaticFilesStorage"},
}

# --- the queue: it only wakes the executor (opsconsole/engine/queue.py) --------------------------

env("Q_CLUSTER_NAME", read.choice("opsconsole", "long"), "opsconsole")  # read by django-q2
Q_CLUSTER: dict[str, Any] = {
    "name": "opsconsole",
    "orm": "default",
    "workers": WORKERS,
    "queue_limit": WORKERS,
    "bulk": 1,
    "poll": 0.2,
    "timeout": 600,  # a slice of 20 s plus the longest batch, or the longest rule of a check
    "retry": 2400,  # above timeout × (2 + queue_limit / workers)
    "max_attempts": 1,  # the run counts the attempts
    "ack_failures": True,
    "catch_up": False,
    "save_limit": 0,  # each finished job would read all saved ones; a schedule prunes them
    "label": _("Queue"),
    "time_zone": TIME_ZONE,
    # Q_CLUSTER_NAME=long is for actions that may take hours, so that other runs do not wait for them.
    "ALT_CLUSTERS": {"long": {"workers": 2, "queue_limit": 2, "timeout": 6 * 3600, "retry": 24 * 3600}},
}

# --- logs: no request bodies, no query parameters --------------------------------------

structlog.configure(
    processors=[
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
    ],
    logger_factory=structlog.stdlib.LoggerFactory(),
    wrapper_class=structlog.stdlib.BoundLogger,
    cache_logger_on_first_use=True,
)
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {
        "line": {
            "()": structlog.stdlib.ProcessorFormatter,
            "processors": [
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.TimeStamper(fmt="iso"),
                structlog.processors.format_exc_info,
                structlog.processors.KeyValueRenderer(key_order=["timestamp", "level", "event"]),
                redact_line,
            ],
            "foreign_pre_chain": [structlog.stdlib.add_log_level],
        }
    },
    "handlers": {
        "stderr": {"class": "logging.StreamHandler", "stream": sys.stderr, "formatter": "line"},
        "none": {"class": "logging.NullHandler"},
    },
    "root": {"handlers": ["stderr"], "level": "WARNING"},
    "loggers": {
        "opsconsole": {"level": "INFO"},
        "django_structlog": {"level": "WARNING"},
        # The reasons of apprise are kept with the delivery, without addresses.
        "apprise": {"handlers": ["none"], "propagate": False},
        "httpx": {"level": "WARNING"},  # below, it logs every address
        "health_check": {"level": "CRITICAL"},  # each probe of an unavailable store would log a traceback
    },
}

DEFAULT_EXCEPTION_REPORTER = "opsconsole.error_reports.Reporter"
DEFAULT_EXCEPTION_REPORTER_FILTER = "opsconsole.error_reports.ReportFilter"

# --- throttling: each signal is off unless set -------------------------------------------------------

RUN_HOLD_FILE = env("RUN_HOLD_FILE", read.path, None)
RUN_HOLD_MAX_REPLICA_LAG_SECONDS = policy("RUN_HOLD_MAX_REPLICA_LAG_SECONDS", read.number(0, 86_400), None)
RUN_HOLD_MAX_ACTIVE_CONNECTIONS = policy("RUN_HOLD_MAX_ACTIVE_CONNECTIONS", read.whole_number(0, 100_000), None)

# --- retention -----------------------------------------------------------------------------------------

UNDO_MIN_DAYS = policy("UNDO_MIN_DAYS", read.whole_number(1, 3650), 30)

# --- alerts about findings, failed and overdue runs (opsconsole/engine/notifications.py) -----

ALERT_EMAILS: list[str] = env("ALERT_EMAILS", read.listed(read.email), [])
ALERT_WEBHOOK_URL = env("ALERT_WEBHOOK_URL", read.http_url, "", secret=True)
ALERT_WEBHOOK_SECRET = env("ALERT_WEBHOOK_SECRET", read.text, "", secret=True)
ALERT_CHANNELS: list[str] = env("ALERT_CHANNELS", read.chat_urls, [], secret=True)
ALERT_PRIVATE_ADDRESSES = env("ALERT_PRIVATE_ADDRESSES", read.boolean, False)
globals().update(env("EMAIL_URL", read.email_url, read.email_url("smtp://localhost:25"), secret=True))
EMAIL_TIMEOUT = 10
DEFAULT_FROM_EMAIL = env("ALERT_FROM", read.sender, "opsconsole@localhost")

# --- HELIX --------------------------------------------------------------------------------------------

HELIX_MAX_RETRY_COUNT = policy("HELIX_MAX_RETRY_COUNT", read.whole_number(0, 1000), 3)
HELIX_HEALTH_URL = env("HELIX_HEALTH_URL", read.http_url, "", secret=True)

# --- roadmaps: stuck tasks and recovery of interrupted workflows --------------------------------

ROADMAPS_TIME_ZONE = env("ROADMAPS_TIME_ZONE", read.zone, ZoneInfo("Asia/Shanghai"))
ROADMAPS_STUCK_AFTER_MINUTES = policy("ROADMAPS_STUCK_AFTER_MINUTES", read.number(0, 525_600), 30.0)
ENABLE_TASK_RECOVERY = env("ENABLE_TASK_RECOVERY", read.boolean, True)
TASK_RECOVERY_MAX_AGE_HOURS = policy("TASK_RECOVERY_MAX_AGE_HOURS", read.number(0, 87_600), 24.0)
TASK_RECOVERY_MAX_CONCURRENT = policy("TASK_RECOVERY_MAX_CONCURRENT", read.whole_number(1, 1000), 3)
TASK_RECOVERY_DELAY_SECONDS = policy("TASK_RECOVERY_DELAY_SECONDS", read.number(0, 86_400), 5.0)
ROADMAPS_WORKFLOW_GRAPH = env("ROADMAPS_WORKFLOW_GRAPH", read.dotted_path, "")
ROADMAPS_CHECKPOINT_URL = env("ROADMAPS_CHECKPOINT_URL", read.checked_database_url, "", secret=True)
ROADMAPS_RESUME_URL = env("ROADMAPS_RESUME_URL", read.http_url, "", secret=True)
ROADMAPS_RETRY_URL = env("ROADMAPS_RETRY_URL", read.http_url, "", secret=True)
ROADMAPS_RESUME_SECRET = env("ROADMAPS_RESUME_SECRET", read.text, "", secret=True)

# --- approvals: lifetime of a request for approval ------------------------------------------------

RUN_APPROVAL_HOURS = policy("RUN_APPROVAL_HOURS", read.number(0, 87_600), 24.0)

# --- backups -------------------------------------------------------------------------------------------

BACKUP_FOLDERS: list[Path] = env("BACKUP_FOLDERS", read.listed(read.folder), [])  # default: DATA_DIR/backups
for _folder in BACKUP_FOLDERS:
    if _folder.resolve().is_relative_to(STATIC_ROOT) or STATIC_ROOT.is_relative_to(_folder.resolve()):
        raise ImproperlyConfigured(
            f"BACKUP_FOLDERS contains {str(_folder)!r}, which overlaps {str(STATIC_ROOT)!r}. Name another directory."
        )
BACKUP_MAX_AGE_HOURS = policy("BACKUP_MAX_AGE_HOURS", read.number(0, 87_600), 24.0)
BACKUP_ENCRYPTION_KEY = env("BACKUP_ENCRYPTION_KEY", read.age_identity, "", secret=True)

# --- monitoring ------------------------------------------------------------------------------------------

METRICS_TOKEN = env("METRICS_TOKEN", read.bearer_token, "", secret=True)
CONNECTIONS_ALERT_PERCENT = policy("CONNECTIONS_ALERT_PERCENT", read.whole_number(1, 100), 80)

# --- secrets (opsconsole/redaction.py) ----------------------------------------------------

config.refuse_unknown()
CONFIG_FILE_SECRETS = config.secrets
SECRET_VARIABLES = (*(name for name, variable in env.variables.items() if variable.secret), "CONFIG_FILE_SECRETS")

# --- theme ----------------------------------------------------------------------------------------------

UNFOLD = {
    "SITE_TITLE": "OpsConsole",
    "SITE_HEADER": "OpsConsole",
    "SITE_SYMBOL": "build_circle",
    "SITE_FAVICONS": [
        {
            "rel": "icon",
            "type": "image/svg+xml",
            "href": lambda request: static("opsconsole/icon.svg"),
        },
    ],
    "SITE_URL": reverse_lazy("admin:index"),
    "SHOW_HISTORY": False,
    "SHOW_VIEW_ON_SITE": False,
    "SHOW_LANGUAGES": True,
    "DASHBOARD_CALLBACK": "opsconsole.console.dashboard.dashboard_context",
    "GLOBAL_CALLBACK": "opsconsole.console.base_admin.site_context",
    "ENVIRONMENT_TITLE_PREFIX": "opsconsole.console.base_admin.title_prefix",
    "STYLES": [
        lambda request: static("opsconsole/console.css"),
        lambda request: static("opsconsole/dashboard.css"),
    ],
    "SCRIPTS": [lambda request: static("opsconsole/console.js")],
    "SIDEBAR": {"show_search": False, "navigation": "opsconsole.console.navigation.navigation"},
    "COLORS": {
        "primary": {
            "50": "oklch(97% .014 254.6)",
            "100": "oklch(93.2% .032 255.6)",
            "200": "oklch(88.2% .059 254.1)",
            "300": "oklch(80.9% .105 251.8)",
            "400": "oklch(70.7% .165 254.6)",
            "500": "oklch(62.3% .214 259.8)",
            "600": "oklch(54.6% .245 262.9)",
            "700": "oklch(48.8% .243 264.4)",
            "800": "oklch(42.4% .199 265.6)",
            "900": "oklch(37.9% .146 265.5)",
            "950": "oklch(28.2% .091 267.9)",
        },
    },
}
IMPORT_EXPORT_SKIP_ADMIN_LOG = True
