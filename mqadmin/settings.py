"""Settings: all that differs between deployments comes from the environment, NAME or the file that NAME_FILE names."""

import base64
import hashlib
import sys
from pathlib import Path
from typing import Any

import django_stubs_ext
import structlog
from csp.constants import NONE, SELF
from django.core.exceptions import ImproperlyConfigured
from environ import FileAwareEnv

from core.logs import without_secrets

django_stubs_ext.monkeypatch()  # generic admin classes at run time too

BASE_DIR = Path(__file__).resolve().parent.parent
env = FileAwareEnv()
VERSION = "0.1.0"

DEBUG = env.bool("MQADMIN_DEBUG", default=False)
SECRET_KEY = env.str("MQADMIN_SECRET_KEY", default="").strip()
if not SECRET_KEY:
    # Read-only commands of a developer work without one; a server never starts on a made-up key (nobody could log in twice).
    if len(sys.argv) > 1 and sys.argv[1] in {"makemigrations", "compilemessages", "makemessages", "collectstatic", "help"}:
        SECRET_KEY = "unused-by-this-command"  # noqa: S105
    else:
        raise ImproperlyConfigured(
            "Set MQADMIN_SECRET_KEY, or MQADMIN_SECRET_KEY_FILE to the file that holds it; `make run` does it for you."
        )

MIN_SECRET_KEY = 32
if not DEBUG and len(SECRET_KEY) < MIN_SECRET_KEY and SECRET_KEY != "unused-by-this-command":  # noqa: S105
    raise ImproperlyConfigured(
        f"MQADMIN_SECRET_KEY has {len(SECRET_KEY)} characters; give it {MIN_SECRET_KEY} at least: "
        "python3 -c 'import secrets; print(secrets.token_urlsafe(64))'"
    )

# Stored credentials are sealed with the first key and opened with any of them (core/encryption.py).
ENCRYPTION_KEYS = env.str("MQADMIN_ENCRYPTION_KEYS", default="").replace(",", " ").split()
ENCRYPTION_KEYS_DERIVED = DEBUG and not ENCRYPTION_KEYS  # a developer's machine works without; mqadmin.W001 says so
if ENCRYPTION_KEYS_DERIVED:
    ENCRYPTION_KEYS = [base64.urlsafe_b64encode(hashlib.sha256(f"stored credentials:{SECRET_KEY}".encode()).digest()).decode()]

ENVIRONMENT = env.str("MQADMIN_ENVIRONMENT", default="dev").strip()
LOOPBACK_HOSTS = ["127.0.0.1", "localhost", "[::1]"]
ALLOWED_HOSTS = env.list("MQADMIN_ALLOWED_HOSTS", default=LOOPBACK_HOSTS)
# A name that others reach it by wants HTTPS, unless somebody says otherwise (mqadmin.W002); one's own machine does without.
HTTPS = env.bool("MQADMIN_HTTPS", default=not DEBUG and not set(ALLOWED_HOSTS) <= {*LOOPBACK_HOSTS, ".localhost"})
# Proxies in front: what they say of the client's address is believed, nobody else.
TRUSTED_PROXIES = env.list("MQADMIN_TRUSTED_PROXIES", default=[])
SILENCED_SYSTEM_CHECKS = env.list("MQADMIN_SILENCED_CHECKS", default=[])
CSRF_TRUSTED_ORIGINS = env.list("MQADMIN_TRUSTED_ORIGINS", default=[])

INSTALLED_APPS = [
    "mqadmin.apps.MqadminConfig",
    "mqadmin.apps.ConsoleConfig",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "rest_framework",
    "drf_spectacular",
    "drf_spectacular_sidecar",
    "django_filters",
    "django_structlog",
    "csp",
    "axes",
    "accounts.apps.AccountsConfig",
    "core.apps.CoreConfig",
    "core.console.apps.ConsoleConfig",
    "core.audit.apps.AuditConfig",
    "core.approvals.apps.ApprovalsConfig",
    "core.operations.apps.OperationsConfig",
    "registry.apps.RegistryConfig",
    "clusters.apps.ClustersConfig",
    "topics.apps.TopicsConfig",
    "consumers.apps.ConsumersConfig",
    "messages.apps.MessagesConfig",
]

MIDDLEWARE = [
    "core.middleware.RequestLog",
    "core.middleware.request_context",
    "core.middleware.headers",
    "core.short_way.ShortWay",  # requests of the data plane go no further
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "csp.middleware.CSPMiddleware",
    "accounts.sessions.SessionMiddleware",
    "django.middleware.locale.LocaleMiddleware",
    "core.middleware.problems",
    "accounts.limits.anonymous",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "axes.middleware.AxesMiddleware",
]

ROOT_URLCONF = "mqadmin.urls"
WSGI_APPLICATION = "mqadmin.wsgi.application"
APPEND_SLASH = True

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
                "mqadmin.shell.shell",
            ],
            "builtins": ["core.console.templatetags.console"],
        },
    }
]

# --- Postgres ---------------------------------------------------------------------------------------------------------
_database: dict[str, Any] = env.db_url_config(env.str("DATABASE_URL", default="postgres://mqadmin@127.0.0.1:5432/mqadmin").strip())
_options: dict[str, Any] = _database.setdefault("OPTIONS", {})
_options.setdefault("application_name", "mqadmin")
# Short statements over many partitions look expensive to the planner: compiling them took seconds where running them takes milliseconds.
_options.setdefault("options", "-c jit=off -c idle_in_transaction_session_timeout=60000")
# A server that is gone without a word is noticed within seconds, not when TCP gives up.
_options.setdefault("connect_timeout", 5)
_options.setdefault("tcp_user_timeout", 15_000)
_pool = env.int("MQADMIN_DB_POOL_SIZE", default=0)  # the web process sets it (mqadmin/wsgi.py); others keep a connection of their own
if _pool:
    _options["pool"] = {"min_size": 2, "max_size": _pool, "timeout": 10, "max_lifetime": 1800}
else:
    _database.update(CONN_MAX_AGE=600, CONN_HEALTH_CHECKS=True)
DATABASES = {"default": _database}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

# --- ZooKeeper --------------------------------------------------------------------------------------------------------
ZOOKEEPER_HOSTS = env.str("ZOOKEEPER_HOSTS", default="127.0.0.1:2181").strip()
ZOOKEEPER_SESSION_TIMEOUT = env.float("ZOOKEEPER_SESSION_TIMEOUT", default=10.0)  # seconds
# user:password of the registrars; several, the first of which owns the nodes, while the password is changed.
ZOOKEEPER_AUTH = env.str("ZOOKEEPER_AUTH", default="").strip()
# protected: all read, only the registrars write. open: everybody may do anything.
ZOOKEEPER_ACL = env.str("ZOOKEEPER_ACL", default="").strip() or ("protected" if ZOOKEEPER_AUTH else "open")
# PEM files. A CA switches TLS on; certificate and key are for a server that asks for them.
ZOOKEEPER_TLS_CA = env.str("ZOOKEEPER_TLS_CA", default="").strip()
ZOOKEEPER_TLS_CERT = env.str("ZOOKEEPER_TLS_CERT", default="").strip()
ZOOKEEPER_TLS_KEY = env.str("ZOOKEEPER_TLS_KEY", default="").strip()
# Service registries of other programs that registrars follow: the nodes below which each stands, by layout.
REGISTRY_DUBBO = env.list("MQADMIN_REGISTRY_DUBBO", default=["/dubbo"])
REGISTRY_MESSAGES = env.list("MQADMIN_REGISTRY_MESSAGES", default=["/paascloud/registry"])
REGISTRY_JOBS = env.list("MQADMIN_REGISTRY_JOBS", default=[])

# --- Celery: a task is only a wake-up call, the work to do is a row in Postgres ----------------------------------------
CELERY_BROKER_URL = env.str("CELERY_BROKER_URL", default="redis://127.0.0.1:6379/0").strip()
CELERY_TASK_IGNORE_RESULT = True
CELERY_TASK_ACKS_LATE = True
CELERY_TASK_REJECT_ON_WORKER_LOST = True
CELERY_WORKER_PREFETCH_MULTIPLIER = 1
CELERY_WORKER_HIJACK_ROOT_LOGGER = False
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_BROKER_CONNECTION_MAX_RETRIES = None
CELERY_BROKER_TRANSPORT_OPTIONS = {"visibility_timeout": 300, "socket_timeout": 5, "socket_connect_timeout": 2, "max_retries": 1}
CELERY_WORKER_CANCEL_LONG_RUNNING_TASKS_ON_CONNECTION_LOSS = True
CELERY_TIMEZONE = "UTC"
# `expires`: when no worker was there for a while, one wake-up is enough.
CELERY_BEAT_SCHEDULE = {
    "promote-delayed": {"task": "messages.promote_delayed", "schedule": 1.0, "options": {"expires": 5}},
    "expire-leases": {"task": "messages.expire_leases", "schedule": 1.0, "options": {"expires": 5}},
    "enforce-limits": {"task": "messages.enforce_limits", "schedule": 1.0, "options": {"expires": 5}},
    "drive-operations": {"task": "operations.drive", "schedule": 1.0, "options": {"expires": 5}},
    "check-back": {"task": "messages.check_back", "schedule": 1.0, "options": {"expires": 5}},
    "retain": {"task": "messages.retain", "schedule": 15.0, "options": {"expires": 15}},
    "give-up-instances": {"task": "messages.give_up_instances", "schedule": 30.0, "options": {"expires": 30}},
    "push-to-webhooks": {"task": "messages.push", "schedule": 1.0, "options": {"expires": 5}},
    "send-notifications": {"task": "approvals.send_notifications", "schedule": 5.0, "options": {"expires": 15}},
    "remind-of-requests": {"task": "approvals.remind", "schedule": 60.0, "options": {"expires": 60}},
    "forget-operations": {"task": "operations.forget", "schedule": 3600.0, "options": {"expires": 3600}},
    "forget-notifications": {"task": "approvals.forget_notifications", "schedule": 3600.0, "options": {"expires": 3600}},
    "clean-idempotency-keys": {"task": "core.clean_idempotency_keys", "schedule": 600.0, "options": {"expires": 600}},
    "clean-accounts": {"task": "accounts.clean", "schedule": 60.0, "options": {"expires": 60}},
    "evict-clients": {"task": "registry.evict_clients", "schedule": 5.0, "options": {"expires": 10}},
    "end-draining": {"task": "topics.end_draining", "schedule": 10.0, "options": {"expires": 10}},
    "prove-gates": {"task": "registry.prove_gates", "schedule": 2.0, "options": {"expires": 5}},
    "forget-releases": {"task": "registry.forget_releases", "schedule": 3600.0, "options": {"expires": 3600}},
    "forget-drift": {"task": "registry.forget_drift", "schedule": 600.0, "options": {"expires": 600}},
    "end-shadow-leases": {"task": "consumers.end_expired_shadows", "schedule": 5.0, "options": {"expires": 10}},
}

# --- How long groups go on pulling from a cluster that a topic has left, where nobody can be asked whether it is empty --------
DRAIN_DAYS = env.float("MQADMIN_DRAIN_DAYS", default=7.0)  # as long as Kafka keeps messages by default; 0: until somebody says so

# --- The full check of Postgres, ZooKeeper and the brokers -------------------------------------------------------------------
CHECK_HOURS = env.float("MQADMIN_CHECK_HOURS", default=6.0)  # 0: only when somebody asks for it
if CHECK_HOURS > 0:
    CELERY_BEAT_SCHEDULE["full-check"] = {"task": "registry.start_check", "schedule": CHECK_HOURS * 3600, "options": {"expires": 600}}

# --- Half messages: when a producer is asked what became of them, and how often before a person decides -----------------------
HALF_CHECK_SECONDS = env.float("MQADMIN_HALF_CHECK_SECONDS", default=60.0)
HALF_CHECKS = env.int("MQADMIN_HALF_CHECKS", default=15)

# --- Requests: when they are overdue, and how people are told (webhooks are set in the console) -----------------------------
REQUEST_OVERDUE_HOURS = env.float("MQADMIN_REQUEST_OVERDUE_HOURS", default=24.0)
PUBLIC_URL = env.str("MQADMIN_PUBLIC_URL", default="").strip()  # for links in notifications
EMAIL_HOST = env.str("MQADMIN_EMAIL_HOST", default="").strip()  # empty: no mail is sent, and the console says so
EMAIL_PORT = env.int("MQADMIN_EMAIL_PORT", default=25)
EMAIL_HOST_USER = env.str("MQADMIN_EMAIL_USER", default="").strip()
EMAIL_HOST_PASSWORD = env.str("MQADMIN_EMAIL_PASSWORD", default="").strip()
EMAIL_USE_TLS = env.bool("MQADMIN_EMAIL_STARTTLS", default=False)
EMAIL_USE_SSL = env.bool("MQADMIN_EMAIL_SSL", default=False)
EMAIL_TIMEOUT = 20
DEFAULT_FROM_EMAIL = env.str("MQADMIN_EMAIL_FROM", default="mqadmin@localhost").strip()

# --- People -----------------------------------------------------------------------------------------------------------
AUTH_USER_MODEL = "accounts.User"
AUTHENTICATION_BACKENDS = ["axes.backends.AxesStandaloneBackend", "django.contrib.auth.backends.ModelBackend"]
LOGIN_LOCKOUT_MINUTES = env.int("MQADMIN_LOGIN_LOCKOUT_MINUTES", default=15)
AXES_FAILURE_LIMIT = env.int("MQADMIN_LOGIN_ATTEMPTS", default=5)  # wrong passwords of one name from one address
AXES_LOCKOUT_PARAMETERS = [["username", "ip_address"]]
AXES_CLIENT_IP_CALLABLE = "core.request_context.address_of"
AXES_COOLOFF_TIME = "accounts.lockout.cooloff"
AXES_RESET_ON_SUCCESS = True
AXES_RESET_COOL_OFF_ON_FAILURE_DURING_LOCKOUT = False  # nobody is kept out for ever by somebody who goes on guessing
AXES_LOCKOUT_CALLABLE = "accounts.lockout.refused"
AXES_DISABLE_ACCESS_LOG = True  # the audit has who signed in
AXES_ENABLE_ADMIN = False
AXES_VERBOSE = False
MAX_TOKEN_DAYS = env.int("MQADMIN_MAX_TOKEN_DAYS", default=365)
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.UserAttributeSimilarityValidator"},
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator", "OPTIONS": {"min_length": 12}},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
    {"NAME": "django.contrib.auth.password_validation.NumericPasswordValidator"},
]
PASSWORD_HASHERS = ["core.passwords.Argon2", "django.contrib.auth.hashers.PBKDF2PasswordHasher"]  # the first for new ones, at each login
LOGIN_URL = "admin:login"
LOGIN_REDIRECT_URL = "admin:index"

LANGUAGE_CODE = "en"
LANGUAGES = [("en", "English"), ("zh-hans", "简体中文")]
LOCALE_PATHS = [BASE_DIR / "locale"]
USE_I18N = True
USE_TZ = True
TIME_ZONE = env.str("MQADMIN_TIME_ZONE", default="UTC").strip()
USE_THOUSAND_SEPARATOR = True
FORMAT_MODULE_PATH = ["mqadmin.formats"]

# --- Static files: served by the web process itself, vendored and pinned -------------------------------------------------
STATIC_URL = "/static/"
STATICFILES_DIRS = [BASE_DIR / "static"]
STATIC_ROOT = env.str("MQADMIN_STATIC_ROOT", default="") or None  # where collectstatic puts them, for a server in front
WHITENOISE_USE_FINDERS = True  # and without that step, the web process serves them from the source
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"},
}

# --- Security ---------------------------------------------------------------------------------------------------------
CONTENT_SECURITY_POLICY = {
    "DIRECTIVES": {
        "default-src": [SELF],
        "object-src": [NONE],
        "base-uri": [SELF],
        "form-action": [SELF],
        "frame-ancestors": [NONE],
    }
}
SECURE_CONTENT_TYPE_NOSNIFF = True
SECURE_CROSS_ORIGIN_OPENER_POLICY = "same-origin"
SECURE_REFERRER_POLICY = "same-origin"
X_FRAME_OPTIONS = "DENY"
SESSION_ENGINE = "accounts.sessions"
SESSION_COOKIE_HTTPONLY = True
SESSION_COOKIE_AGE = 12 * 3600
SESSION_COOKIE_SAMESITE = "Lax"
CSRF_COOKIE_SAMESITE = "Lax"
if HTTPS:
    SESSION_COOKIE_SECURE = True
    CSRF_COOKIE_SECURE = True
    SECURE_SSL_REDIRECT = True
    SECURE_REDIRECT_EXEMPT = [r"^healthz$", r"^readyz$", r"^metrics$"]  # probes speak plain HTTP inside the cluster
    SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
    SECURE_HSTS_SECONDS = 365 * 24 * 3600
    SECURE_HSTS_INCLUDE_SUBDOMAINS = True
    SECURE_HSTS_PRELOAD = True

# --- Limits -----------------------------------------------------------------------------------------------------------
MAX_MESSAGE_BYTES = env.int("MQADMIN_MAX_MESSAGE_BYTES", default=1024 * 1024)
MAX_BATCH_MESSAGES = 1000
MAX_BATCH_BYTES = env.int("MQADMIN_MAX_BATCH_BYTES", default=16 * 1024 * 1024)
DATA_UPLOAD_MAX_MEMORY_SIZE = MAX_BATCH_BYTES
MAX_REQUEST_BYTES = env.int("MQADMIN_MAX_REQUEST_BYTES", default=2 * 1024 * 1024)  # of a request to the control plane
# Per credential (200/s, 1000/m; empty: none) and web process; and per address for requests without one, or with a wrong one.
RATE_LIMIT = env.str("MQADMIN_RATE_LIMIT", default="200/s").strip()
DATA_RATE_LIMIT = env.str("MQADMIN_DATA_RATE_LIMIT", default="").strip()  # send, pull, ack and next
ANONYMOUS_RATE_LIMIT = env.str("MQADMIN_ANONYMOUS_RATE_LIMIT", default="50/s").strip()
MAX_WAITING_PULLS = env.int("MQADMIN_MAX_WAITING_PULLS", default=500)
MAX_WAITING_CHANGES = env.int("MQADMIN_MAX_WAITING_CHANGES", default=50)  # requests with ?wait= of a web process; each parks a thread
MAX_EVENT_STREAMS = env.int("MQADMIN_MAX_EVENT_STREAMS", default=100)  # of a web process; each parks a thread like a waiting pull

# --- Addresses that users supply (core/outbound.py) ---------------------------------------------------------------------
OUTBOUND_ALLOW = env.list("MQADMIN_OUTBOUND_ALLOW", default=[])  # networks and host names, beyond public addresses
OUTBOUND_HTTP = env.bool("MQADMIN_OUTBOUND_HTTP", default=False)  # also http://, not only https://

# --- REST -------------------------------------------------------------------------------------------------------------
REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": ["accounts.authentication.TokenAuthentication", "accounts.authentication.SessionAuthentication"],
    "DEFAULT_PERMISSION_CLASSES": ["core.api.permissions.ModelPermissions"],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_PARSER_CLASSES": ["core.api.parsers.JSONParser"],
    "DEFAULT_FILTER_BACKENDS": ["django_filters.rest_framework.DjangoFilterBackend"],
    "DEFAULT_PAGINATION_CLASS": "core.api.pagination.CursorPagination",
    "DEFAULT_SCHEMA_CLASS": "core.api.schema.AutoSchema",
    "EXCEPTION_HANDLER": "core.api.problems.exception_handler",
    "DEFAULT_CONTENT_NEGOTIATION_CLASS": "rest_framework.negotiation.DefaultContentNegotiation",
    "URL_FORMAT_OVERRIDE": None,  # JSON and nothing else
    "UNAUTHENTICATED_USER": "django.contrib.auth.models.AnonymousUser",
}
SPECTACULAR_SETTINGS = {
    "TITLE": "mqadmin",
    "DESCRIPTION": "The control plane of a company's message queues. Errors are RFC 9457 problem documents with a stable `code`.",
    "VERSION": "1",
    "SERVE_INCLUDE_SCHEMA": False,
    "SCHEMA_PATH_PREFIX": r"/api/v1",
    "COMPONENT_SPLIT_REQUEST": True,
    "SERVE_PERMISSIONS": ["rest_framework.permissions.IsAuthenticated"],
    "ENUM_GENERATE_CHOICE_DESCRIPTION": False,
    "POSTPROCESSING_HOOKS": ["drf_spectacular.hooks.postprocess_schema_enums", "core.api.schema.add_components"],
    "ENUM_NAME_OVERRIDES": {
        "ImportSource": "consumers.imports_api.SOURCES",
        "InstanceSource": "registry.models.Instance.Source",
        "ClusterKind": "clusters.models.Kind",
        "BrokerKind": "clusters.api.BROKERS",
        "RequestState": "core.approvals.models.State",
        "RequestStanding": "core.approvals.models.Standing",
        "RequestEvent": "core.approvals.models.Event",
        "MessageState": "messages.api.documents.STATES",
        "AcceptedState": "messages.api.documents.ACCEPTED_STATES",
        "HalfState": "messages.api.documents.HALF_STATES",
        "HalfDecision": "messages.api.documents.DECISIONS",
        "MessageStatus": "messages.api.documents.STATUSES",
        "OutcomeStatus": "messages.api.documents.OUTCOMES",
        "EmptyBecause": "messages.api.documents.REASONS",
        "TraceWord": "messages.tracing.WORDS",
        "GroupMode": "consumers.models.ConsumerGroup.Mode",
        "DriftOutcome": "registry.models.Drift.Outcome",
        "ModeEnum": "core.bulk.api.MODES",
        "InstanceRole": "registry.models.Instance.Role",
        "InstanceEventKind": "registry.models.InstanceEvent.Kind",
        "WaitGoal": "registry.status.GOALS",
        "WaitOutcome": "registry.status.OUTCOMES",
        "ReleaseKind": "registry.models.Release.Kind",
        "GateState": "registry.models.Gate.State",
        "ForeignEdit": "registry.models.Edit",
        "ProducerOrConsumer": "registry.discovery_models.Service.Role",
        "ServiceLayout": "registry.discovery_models.Service.Layout",
        "ServiceEventKind": "registry.discovery_models.ServiceEvent.Kind",
        "RegistrationKind": "registry.discovery_models.Registration.Kind",
        "Departure": "registry.discovery_models.Departure",
    },
}

# --- Logs: one line an event, with the request id; JSON for machines -------------------------------------------------------
_processors: list[Any] = [
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_logger_name,
    structlog.stdlib.add_log_level,
    structlog.stdlib.PositionalArgumentsFormatter(),
    structlog.processors.TimeStamper(fmt="iso", utc=True),
    structlog.processors.StackInfoRenderer(),
]
structlog.configure(
    processors=[structlog.stdlib.filter_by_level, *_processors, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
    logger_factory=structlog.stdlib.LoggerFactory(),
    cache_logger_on_first_use=True,
)
_json = env.str("MQADMIN_LOG_FORMAT", default="console").strip() == "json"
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {
        "line": {
            "()": structlog.stdlib.ProcessorFormatter,
            "foreign_pre_chain": _processors,
            "processors": [
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                without_secrets,  # last: tracebacks too
                structlog.processors.JSONRenderer()
                if _json
                else structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback),
            ],
        }
    },
    "filters": {"without_probes": {"()": "core.logs.WithoutProbes"}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line", "filters": ["without_probes"]}},
    "root": {"handlers": ["stderr"], "level": env.str("MQADMIN_LOG_LEVEL", default="INFO").strip()},
    "loggers": {
        "django.server": {"level": "WARNING", "propagate": True, "handlers": []},
        "django.request": {"level": "ERROR"},
        "kazoo": {"level": "WARNING"},
        "celery.app.trace": {"level": "WARNING"},  # a line per second and task says nothing
        "celery.worker.strategy": {"level": "WARNING"},
        "celery.beat": {"level": "WARNING"},
        "httpx": {"level": "WARNING"},  # it writes whole URLs down, and those of webhooks have secrets in them
        "axes": {"level": "ERROR"},  # the audit has it
        "django_structlog.middlewares.request": {"level": env.str("MQADMIN_ACCESS_LOG_LEVEL", default="WARNING").strip()},
    },
}
DJANGO_STRUCTLOG_CELERY_ENABLED = False
DJANGO_STRUCTLOG_IP_LOGGING_ENABLED = False  # half a millisecond a request; the audit has REMOTE_ADDR
