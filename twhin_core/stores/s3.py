"""S3, and what speaks its protocol: MinIO, Ceph.

Credentials come, in this order, from the environment; from workload identity (IRSA, pod identity); from the profile in
~/.aws; from the machine's metadata server. obstore reads all but the profile itself.
"""

from __future__ import annotations

import configparser
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from obstore.store import S3Store

from twhin_core.errors import StorageRefused
from twhin_core.stores.obstore_filesystem import ObstoreFileSystem
from twhin_core.stores.obstore_settings import check_sendable, client_options

if TYPE_CHECKING:
    from obstore.store import RetryConfig, S3Config, S3Credential

PROFILE_LASTS = timedelta(minutes=5)
"""After this time, the files are read again: other programs may renew what is in them."""

BEFORE_PROFILE = {
    "AWS_ACCESS_KEY_ID", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI", "AWS_SKIP_SIGNATURE",
}  # fmt: skip
"""Variables that take precedence over a profile, as they do for AWS's own tools."""
KEYS = {"aws_access_key_id", "aws_secret_access_key", "aws_session_token"}
"""Of a profile."""
ENDPOINTS = "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"


class S3(ObstoreFileSystem):
    protocol = "s3"
    prefix = "AWS_"
    credentials = "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"

    @staticmethod
    def connect(bucket: str, given: dict[str, str], retries: RetryConfig) -> S3Store:
        config: S3Config = {"disable_bulk_delete": True}  # which some servers lack
        profile = _profile(given)
        uses_profile = not BEFORE_PROFILE & given.keys() and ("AWS_PROFILE" in given or "aws_access_key_id" in profile)
        provider = (lambda: _keys(_profile(given), given)) if uses_profile else None
        if provider is not None:
            provider()  # raises now what is wrong
        if "region" in profile and not {"AWS_REGION", "AWS_DEFAULT_REGION"} & given.keys():
            config["region"] = profile["region"]
        setting = next((name for name in ENDPOINTS if name in given), "endpoint_url of the AWS profile")
        endpoint = given.get(setting) or profile.get("endpoint_url")
        if endpoint is not None and setting not in given:
            config["endpoint"] = endpoint
        options = client_options(endpoint, setting)
        return S3Store(
            bucket, config=config, client_options=options, retry_config=retries, credential_provider=provider
        )


def _profile(given: dict[str, str]) -> dict[str, str]:
    """The chosen profile of ~/.aws/config and ~/.aws/credentials, empty without one."""
    profile = given.get("AWS_PROFILE", "default")
    found: dict[str, str] = {}
    files = {
        given.get("AWS_CONFIG_FILE", "~/.aws/config"): profile if profile == "default" else f"profile {profile}",
        given.get("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials"): profile,
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


def _keys(profile: dict[str, str], given: dict[str, str]) -> S3Credential:
    try:
        key, secret = profile["aws_access_key_id"], profile["aws_secret_access_key"]
    except KeyError as missing:
        raise StorageRefused(
            f"AWS_PROFILE: profile {given.get('AWS_PROFILE', 'default')} has no {missing.args[0]}; of other kinds of "
            'profiles, pass the keys on: eval "$(aws configure export-credentials --format env)"'
        ) from None
    for name in KEYS & profile.keys():
        check_sendable(name, profile[name])
    token, expires = profile.get("aws_session_token"), datetime.now(UTC) + PROFILE_LASTS
    return {"access_key_id": key, "secret_access_key": secret, "token": token, "expires_at": expires}
