"""The clients of S3 and Azure, from the environment and the files in which their own tools keep settings.

Credentials come, in this order, from the environment; from workload identity (IRSA, pod identity, a federated token);
on S3, from the profile in ~/.aws; from the machine's metadata server. obstore reads all but the profile itself.
"""

from __future__ import annotations

import configparser
import os
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, cast

from obstore.exceptions import BaseError
from obstore.store import AzureStore, S3Store

from twhin_core import object_store
from twhin_core.errors import StorageRefused

if TYPE_CHECKING:
    from obstore.store import AzureConfig, ClientConfig, RetryConfig, S3Config, S3Credential

Environment = tuple[tuple[str, str], ...]
Retries = tuple[float, float, float]
"""The initial and maximum delay and the timeout, in seconds."""

CLIENTS = 64
PROFILE_LASTS = timedelta(minutes=5)
"""After this time, the files are read again: other programs may renew what is in them."""

BEFORE_PROFILE = {
    "AWS_ACCESS_KEY_ID", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI", "AWS_SKIP_SIGNATURE",
}  # fmt: skip
"""Variables that take precedence over a profile, as they do for AWS's own tools."""

# Names of Azure's command line, and of connection strings, beside obstore's own.
AZURE_NAMES = {
    "AZURE_STORAGE_ACCOUNT": "account_name",
    "AZURE_STORAGE_KEY": "account_key",
    "AZURE_STORAGE_SAS_TOKEN": "sas_key",
}
CONNECTION_STRING = "AZURE_STORAGE_CONNECTION_STRING"
CONNECTION_NAMES = {
    "AccountName": "account_name",
    "AccountKey": "account_key",
    "SharedAccessSignature": "sas_key",
    "BlobEndpoint": "endpoint",
}


def environment(prefix: str) -> Environment:
    """The variables that begin with `prefix`.

    Raises:
        StorageRefused: one holds what no request can carry, as a key does that was read with the end of its line.
    """
    found = tuple(sorted((name, value) for name, value in os.environ.items() if name.startswith(prefix) and value))
    for name, value in found:
        if not value.isascii() or not value.isprintable() or value != value.strip():
            raise StorageRefused(f"{name}: has blanks at its ends, a line break or a character that is not ASCII")
    return found


@lru_cache(CLIENTS)
def s3_client(bucket: str, given: Environment, retries: Retries) -> S3Store:
    """A client of the bucket. Raises StorageRefused if the settings are wrong."""
    names: dict[str, str] = dict(given)
    config: S3Config = {"disable_bulk_delete": True}  # which some servers lack
    profile = _profile(names)
    uses_profile = not BEFORE_PROFILE & names.keys() and ("AWS_PROFILE" in names or "aws_access_key_id" in profile)
    provider = (lambda: _keys(_profile(names), names)) if uses_profile else None
    if provider is not None:
        provider()  # raises now what is wrong
    if "region" in profile and not {"AWS_REGION", "AWS_DEFAULT_REGION"} & names.keys():
        config["region"] = profile["region"]
    endpoint = names.get("AWS_ENDPOINT_URL_S3") or names.get("AWS_ENDPOINT_URL") or names.get("AWS_ENDPOINT")
    if endpoint is None and "endpoint_url" in profile:
        config["endpoint"] = endpoint = profile["endpoint_url"]
    options = _client_options(endpoint, "AWS_ENDPOINT_URL")
    try:
        return S3Store(
            bucket, config=config, client_options=options, retry_config=_retry(retries), credential_provider=provider
        )
    except (BaseError, ValueError) as error:
        raise StorageRefused(f"s3://{bucket}: {_first_line(error)}") from None


@lru_cache(CLIENTS)
def azure_client(container: str, given: Environment, retries: Retries) -> AzureStore:
    """A client of `container` or `container@account.dfs.core.windows.net`. Raises StorageRefused as `s3_client`."""
    names = dict(given)
    config = {key: names[name] for name, key in AZURE_NAMES.items() if name in names}
    parts = (part.split("=", 1) for part in names.get(CONNECTION_STRING, "").split(";") if "=" in part)
    config |= {CONNECTION_NAMES[name]: value for name, value in parts if name in CONNECTION_NAMES}
    name, _, host = container.partition("@")
    if host:
        config["account_name"] = host.partition(".")[0]
        if "AZURE_STORAGE_ENDPOINT" not in names:
            config.setdefault("endpoint", f"https://{host.replace('.dfs.', '.blob.', 1)}")
    endpoint = config.get("endpoint") or names.get("AZURE_STORAGE_ENDPOINT")
    options = _client_options(endpoint, "AZURE_STORAGE_ENDPOINT")
    if not config.get("account_name") and "AZURE_STORAGE_ACCOUNT_NAME" not in names:
        raise StorageRefused(
            f"abfs://{container}: set AZURE_STORAGE_ACCOUNT_NAME, or name the account: "
            f"abfs://{container}@ACCOUNT.dfs.core.windows.net"
        )
    try:
        return AzureStore(
            name, config=cast("AzureConfig", config), client_options=options, retry_config=_retry(retries)
        )
    except (BaseError, ValueError) as error:
        raise StorageRefused(f"abfs://{container}: {_first_line(error)}") from None


def _client_options(endpoint: str | None, name: str) -> ClientConfig:
    options: ClientConfig = {
        "connect_timeout": timedelta(seconds=object_store.CONNECT_TIMEOUT),
        "read_timeout": timedelta(seconds=object_store.SILENCE_TIMEOUT),
        "timeout": timedelta(days=1),  # not of the whole request
    }
    if endpoint is not None:
        scheme, separator, _ = endpoint.partition("://")
        if not separator or scheme not in ("http", "https"):
            raise StorageRefused(f"{name}: {endpoint!r} does not begin with http:// or https://")
        options["allow_http"] = scheme == "http"
    return options


def _retry(retries: Retries) -> RetryConfig:
    initial, maximum, timeout = (timedelta(seconds=value) for value in retries)
    return {
        "max_retries": 1_000_000,
        "retry_timeout": timeout,
        "backoff": {"init_backoff": initial, "max_backoff": maximum, "base": 2},
    }


def _profile(names: dict[str, str]) -> dict[str, str]:
    """The chosen profile of ~/.aws/config and ~/.aws/credentials, empty without one."""
    profile = names.get("AWS_PROFILE", "default")
    found: dict[str, str] = {}
    files = {
        names.get("AWS_CONFIG_FILE", "~/.aws/config"): profile if profile == "default" else f"profile {profile}",
        names.get("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials"): profile,
    }
    for path, section in files.items():
        parser = configparser.RawConfigParser()
        try:
            parser.read(Path(path).expanduser(), encoding="utf-8")
        except (configparser.Error, UnicodeDecodeError):
            # Not the error's own text, which has lines of the file.
            raise StorageRefused(f"{path}: is not a file of AWS settings") from None
        if parser.has_section(section):
            found |= dict(parser.items(section))
    return found


def _keys(profile: dict[str, str], names: dict[str, str]) -> S3Credential:
    try:
        key, secret = profile["aws_access_key_id"], profile["aws_secret_access_key"]
    except KeyError as missing:
        raise StorageRefused(
            f"AWS_PROFILE: profile {names.get('AWS_PROFILE', 'default')} has no {missing.args[0]}; of other kinds of "
            'profiles, pass the keys on: eval "$(aws configure export-credentials --format env)"'
        ) from None
    token, expires = profile.get("aws_session_token"), datetime.now(UTC) + PROFILE_LASTS
    return {"access_key_id": key, "secret_access_key": secret, "token": token, "expires_at": expires}


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
