"""Where mqctl finds the control plane, ZooKeeper and its credentials: options, the environment, or a profile of the configuration file."""

from __future__ import annotations

import os
import stat
import sys
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mqadmin_sdk.cli.outcomes import CommandError, Exit

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mqadmin_sdk.zk import Access

_SECRET_KEYS = ("token", "app_secret", "zookeeper_auth")
_FILES = ("token_file", "app_secret_file", "zookeeper_auth_file")


@dataclass(frozen=True)
class Settings:
    """What one call of mqctl works with. Sources are not mixed, so that no credential goes to an address that it was not made for."""

    url: str = ""
    ca: str = ""
    token: str = field(default="", repr=False)
    app: str = ""
    app_key: str = ""
    app_secret: str = field(default="", repr=False)
    zookeeper: str = ""
    zookeeper_auth: str = field(default="", repr=False)
    zookeeper_ca: str = ""
    zookeeper_certificate: str = ""
    zookeeper_key: str = ""
    source: str = "nowhere"

    @property
    def who(self) -> str:
        """Which credential is used, in words."""
        return "token" if self.token else f"application key {self.app_key}" if self.app_key else "none"

    def access(self) -> Access:
        """Credentials and certificates for ZooKeeper."""
        from mqadmin_sdk.zk import Access, AccessError

        try:
            return Access(auth=self.zookeeper_auth, ca=self.zookeeper_ca, certificate=self.zookeeper_certificate, key=self.zookeeper_key)
        except AccessError as error:
            raise CommandError(str(error), code=Exit.USAGE) from error


_KEYS = {one.name for one in fields(Settings)} - {"source"} | set(_FILES)


def path_of_file(environ: Mapping[str, str] = os.environ) -> Path:
    """Where the configuration file is: MQADMIN_CONFIG, or mqadmin/config.toml in the user's directory for configuration."""
    if named := environ.get("MQADMIN_CONFIG"):
        return Path(named)
    return Path(environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "mqadmin" / "config.toml"


def load(*, url: str = "", profile: str = "", zookeeper: str = "", environ: Mapping[str, str] = os.environ) -> Settings:
    """Find the settings: an option wins over the environment, and that over the file. Raises CommandError (usage)."""
    ours = _of_environment(environ)
    if profile:
        found = _of_profile(profile, environ)
        if url and url.rstrip("/") != found.url.rstrip("/"):
            raise _wrong(f"--url is not the address of the profile {profile}.", "Its credentials are for its address: give one of both.")
    elif url or ours.url:
        # Credentials of the environment belong to what the caller says here; those of a profile never leave its address.
        found = ours
        if url and not (ours.token or ours.app_key):
            found = _profile_at(url, environ) or ours
    else:
        name = environ.get("MQADMIN_PROFILE", "")
        found = _of_profile(name, environ) if name or path_of_file(environ).exists() else ours
    changes = {"url": (url or found.url).rstrip("/"), "zookeeper": zookeeper or found.zookeeper or ours.zookeeper}
    return Settings(**{**{one.name: getattr(found, one.name) for one in fields(Settings)}, **changes})


def _of_environment(environ: Mapping[str, str]) -> Settings:
    def read(name: str) -> str:
        if file := environ.get(f"{name}_FILE", ""):
            return _read(Path(file), f"{name}_FILE")
        return environ.get(name, "")

    return Settings(
        url=environ.get("MQADMIN_URL", ""),
        ca=environ.get("MQADMIN_CA", ""),
        token=read("MQADMIN_TOKEN"),
        app=environ.get("MQADMIN_APP", ""),
        app_key=environ.get("MQADMIN_APP_KEY", ""),
        app_secret=read("MQADMIN_APP_SECRET"),
        zookeeper=environ.get("MQADMIN_ZOOKEEPER", ""),
        zookeeper_auth=read("MQADMIN_ZOOKEEPER_AUTH"),
        zookeeper_ca=environ.get("MQADMIN_ZOOKEEPER_TLS_CA", ""),
        zookeeper_certificate=environ.get("MQADMIN_ZOOKEEPER_TLS_CERT", ""),
        zookeeper_key=environ.get("MQADMIN_ZOOKEEPER_TLS_KEY", ""),
        source="the environment",
    )


def _of_profile(name: str, environ: Mapping[str, str]) -> Settings:
    file = path_of_file(environ)
    profiles, default = _profiles(file)
    name = name or default or (next(iter(profiles)) if len(profiles) == 1 else "")
    if not name:
        hint = 'Say which with --profile, or write default = "name" in its first line.'
        raise _wrong(f"{file} has several profiles and no default.", hint)
    if name not in profiles:
        raise _wrong(f"{file} has no profile “{name}”.", f"It has: {', '.join(profiles) or 'none'}.")
    return _settings(file, name, profiles[name])


def _profile_at(url: str, environ: Mapping[str, str]) -> Settings | None:
    file = path_of_file(environ)
    if not file.exists():
        return None
    profiles, _default = _profiles(file)
    name = next((name for name, keys in profiles.items() if str(keys.get("url", "")).rstrip("/") == url.rstrip("/")), None)
    return None if name is None else _settings(file, name, profiles[name])


def _profiles(file: Path) -> tuple[dict[str, dict[str, str]], str]:
    """Read the file strictly: (keys of each profile, name of the default one)."""
    try:
        document: dict[str, Any] = tomllib.loads(file.read_text("utf-8"))
    except FileNotFoundError:
        raise _wrong(f"There is no configuration file {file}.", "Set MQADMIN_URL and MQADMIN_TOKEN, or write one: docs/mqctl.md.") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise _wrong(f"{file}: {error}") from error
    profiles = document.get("profiles", {})
    if unknown := set(document) - {"default", "profiles"}:
        hint = 'It holds default = "name", and [profiles.name] with url and token.'
        raise _wrong(f"{file}: unknown: {', '.join(sorted(unknown))}.", hint)
    if not isinstance(profiles, dict) or not all(isinstance(keys, dict) for keys in profiles.values()):
        raise _wrong(f"{file}: profiles are tables: [profiles.name].")
    for name, keys in profiles.items():
        if unknown := set(keys) - _KEYS:
            raise _wrong(f"{file}: profile {name}: unknown: {', '.join(sorted(unknown))}.", f"Known are: {', '.join(sorted(_KEYS))}.")
        if not all(isinstance(value, str) for value in keys.values()):
            raise _wrong(f"{file}: profile {name}: values are text.")
    if any(secret in keys for keys in profiles.values() for secret in _SECRET_KEYS):
        check_mode(file)
    return profiles, str(document.get("default", ""))


def profiles_of(file: Path) -> list[str]:
    """Return the names of the profiles of a file."""
    return list(_profiles(file)[0])


def _settings(file: Path, name: str, keys: Mapping[str, str]) -> Settings:
    values = {key: value for key, value in keys.items() if key not in _FILES}
    for key in _FILES:
        if key in keys:
            values[key.removesuffix("_file")] = _read(Path(keys[key]).expanduser(), f"{file}: profile {name}: {key}")
    return Settings(**values, source=f"profile {name} of {file}")


def _read(file: Path, what: str) -> str:
    try:
        check_mode(file)
        return file.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise _wrong(f"{what}: {file}: {getattr(error, 'strerror', None) or error}") from error


def check_mode(file: Path) -> None:
    """Refuse a file with secrets that others can read, or that somebody else could have put there; pipes and mounted secrets are let be."""
    found = file.stat()
    if not stat.S_ISREG(found.st_mode) or not hasattr(os, "getuid"):
        return
    if found.st_uid not in {os.getuid(), 0}:
        raise _wrong(f"{file} holds credentials and belongs to somebody else (user {found.st_uid}).")
    if found.st_mode & 0o077 and found.st_uid == os.getuid():
        raise _wrong(f"{file} holds credentials, and others can read it.", f"chmod 600 {file}")


def _wrong(message: str, hint: str = "") -> CommandError:
    return CommandError(message, code=Exit.USAGE, hint=hint)
