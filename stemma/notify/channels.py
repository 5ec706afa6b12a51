"""`STEMMA_HOME/notify.yaml`: the channels that the operator set up, and which topics go to which.

The file holds secrets and is read anew each time; nothing of it is written anywhere else, and no error repeats a value.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Annotated, Any, Final, Literal
from urllib.parse import urlsplit

import httpx
import yaml
from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator, model_validator

from stemma.errors import InvalidInput
from stemma.notify.standard_webhooks import secret_bytes
from stemma.store.files import storage_error
from stemma.store.settings import Settings

FILE: Final = "notify.yaml"

_EXPOSED = stat.S_IRWXO
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
_ADDRESS = re.compile(r"[!-;=?A-~]{1,64}@[A-Za-z0-9.-]{1,253}")
_HINT = "docs/OPERATIONS.md shows a whole file."


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class _Posted(_Part):
    """A channel that is reached by POST. The URL is kept from sight, since it may be all that a sender needs."""

    url: SecretStr
    allow_private: bool = False

    @model_validator(mode="after")
    def _usable(self) -> _Posted:
        try:
            parts = urlsplit(self.url.get_secret_value())
            httpx.URL(self.url.get_secret_value())
            usable = bool(parts.hostname) and (parts.port is None or parts.port > 0) and parts.username is None
        except (ValueError, httpx.InvalidURL):
            usable = False
        if not usable or parts.scheme not in ("http", "https"):
            raise ValueError("url has to read https://host/path, without user name and password")
        if parts.scheme == "http" and not self.allow_private:
            raise ValueError("url has to begin with https://, or allow_private has to be true")
        return self

    @property
    def address(self) -> tuple[str, int, bool]:
        """Host and port of the receiver, and whether it speaks TLS from the start."""
        url = httpx.URL(self.url.get_secret_value())
        secure = url.scheme == "https"
        return url.raw_host.decode(), url.port or (443 if secure else 80), secure


class SlackChannel(_Posted):
    """A Slack incoming webhook."""

    kind: Literal["slack"]

    def secrets(self) -> tuple[str, ...]:
        """What must not be shown anywhere."""
        return (self.url.get_secret_value(),)


class WebhookChannel(_Posted):
    """A receiver of signed webhooks; every secret signs, so that one can be rotated out."""

    kind: Literal["webhook"]
    signing_secrets: tuple[SecretStr, ...] = Field(alias="secrets", min_length=1, max_length=4)

    @field_validator("signing_secrets")
    @classmethod
    def _secrets(cls, value: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
        try:
            for secret in value:
                secret_bytes(secret.get_secret_value())
        except InvalidInput as error:
            raise ValueError(error.message) from None
        return value

    @property
    def keys(self) -> tuple[bytes, ...]:
        """What signs."""
        return tuple(secret_bytes(secret.get_secret_value()) for secret in self.signing_secrets)

    def secrets(self) -> tuple[str, ...]:
        """What must not be shown anywhere."""
        return (self.url.get_secret_value(), *(secret.get_secret_value() for secret in self.signing_secrets))


class MailChannel(_Part):
    """Mail through one SMTP server. A password is sent over TLS alone, whatever `tls` says."""

    kind: Literal["smtp"]
    host: str = Field(min_length=1, max_length=253)
    port: int = Field(default=587, ge=1, le=65535)
    tls: Literal["when-offered", "required", "implicit"] = "when-offered"
    username: str | None = None
    password: SecretStr | None = None
    sender: str
    recipients: tuple[str, ...] = Field(min_length=1, max_length=50)
    allow_private: bool = False

    @field_validator("sender", "recipients")
    @classmethod
    def _addresses(cls, value: str | tuple[str, ...]) -> str | tuple[str, ...]:
        for address in (value,) if isinstance(value, str) else value:
            if not _ADDRESS.fullmatch(address):
                raise ValueError("write an address as in ops@example.org, without a name")
        return value

    @model_validator(mode="after")
    def _both_or_none(self) -> MailChannel:
        if (self.username is None) != (self.password is None):
            raise ValueError("username and password go together")
        return self

    @property
    def address(self) -> tuple[str, int, bool]:
        """Host and port of the mail server, and whether it speaks TLS from the start."""
        return self.host, self.port, self.tls == "implicit"

    def secrets(self) -> tuple[str, ...]:
        """What must not be shown anywhere."""
        return () if self.password is None else (self.password.get_secret_value(),)


Channel = SlackChannel | WebhookChannel | MailChannel


class Subscription(_Part):
    """Which topics, by glob, go to which channels."""

    topics: tuple[str, ...] = Field(min_length=1)
    channels: tuple[str, ...] = Field(min_length=1)


class Routing(_Part):
    """The whole file."""

    channels: dict[str, Annotated[Channel, Field(discriminator="kind")]] = {}
    subscriptions: tuple[Subscription, ...] = ()

    @model_validator(mode="after")
    def _names(self) -> Routing:
        for name in self.channels:
            if not _NAME.fullmatch(name):
                raise ValueError("the name of a channel has up to 63 lower-case letters, digits, `_` and `-`")
        for subscription in self.subscriptions:
            for name in subscription.channels:
                if name not in self.channels:
                    raise ValueError("a subscription names a channel that is not under `channels`")
        return self

    def topics_of(self, channel: str) -> tuple[str, ...]:
        """The globs that lead to a channel."""
        return tuple(topic for each in self.subscriptions if channel in each.channels for topic in each.topics)

    def channels_for(self, topic: str) -> tuple[str, ...]:
        """The names of the channels that a topic goes to."""
        return tuple(
            name for name in self.channels if any(fnmatchcase(topic, wanted) for wanted in self.topics_of(name))
        )


def load_routing(settings: Settings) -> Routing:
    """Read the file; without one there is no channel.

    Raises InvalidInput with code `notify_file_exposed` where everybody on the machine can read it, `notify_invalid`
    where it cannot be used.
    """
    path = settings.home / FILE
    try:
        with path.open(encoding="utf-8") as file:
            exposed = os.fstat(file.fileno()).st_mode & _EXPOSED
            text = file.read()
    except FileNotFoundError:
        return Routing()
    except UnicodeDecodeError:
        raise _invalid("It is not UTF-8.") from None
    except OSError as error:
        raise storage_error(error) from error
    if exposed:
        what = "Everybody on this machine may open the file, which holds secrets."
        raise InvalidInput("notify_file_exposed", what, field=FILE, hint=f"Run `chmod 600 {path}`.")
    return _parsed(text)


def _parsed(text: str) -> Routing:
    # Errors of the parsers carry what they read, so that none of them goes along as a cause.
    try:
        document = yaml.safe_load(text) or {}
    except yaml.MarkedYAMLError as error:
        line = f" in line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise _invalid(f"It is not YAML{line}.") from None
    except (yaml.YAMLError, ValueError, RecursionError):
        raise _invalid("It is not YAML.") from None
    if not isinstance(document, Mapping):
        raise _invalid("It has to hold `channels` and `subscriptions`.")
    try:
        return Routing.model_validate(document)
    except ValidationError as error:
        first = error.errors(include_input=False, include_context=False, include_url=False)[0]
        raise _invalid(f"{_place(first)}{first['msg'].removeprefix('Value error, ')}.") from None


def _place(error: Mapping[str, Any]) -> str:
    place = ".".join(str(part) for part in error["loc"])
    return f"{place}: " if place else ""


def _invalid(what: str) -> InvalidInput:
    return InvalidInput("notify_invalid", what, field=FILE, hint=_HINT)
