"""Which credentials, regions and servers a request to S3 or Azure uses, as a server sees it."""

from __future__ import annotations

from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from tests.loopback import Answers, serving
from tests.object_store import environment_at
from twhin_core import storage
from twhin_core.errors import StorageError, StorageRefused
from twhin_core.stores import failures

FILES = {
    "credentials": """
        [default]
        aws_access_key_id = AKDEFAULT
        aws_secret_access_key = one
        [other]
        aws_access_key_id = AKOTHER
        aws_secret_access_key = two
        aws_session_token = token-of-other
        """,
    "config": """
        [default]
        region = eu-central-1
        [profile other]
        region = eu-west-3
        [profile third]
        aws_access_key_id = AKTHIRD
        aws_secret_access_key = three
        endpoint_url = URL
        [profile sso]
        sso_account_id = 1
        """,
}
KEYS = {"AWS_ACCESS_KEY_ID": "AKENV", "AWS_SECRET_ACCESS_KEY": "four"}
AT = {"AWS_ENDPOINT_URL": "URL"}
KEY = "a2V5"  # base64
OTHER = {"AZURE_STORAGE_ENDPOINT": "URL/e"}


class Handler(Answers, BaseHTTPRequestHandler):
    """Has no object, and remembers how each was asked for."""

    state: list[tuple[str, dict[str, str]]]

    def do_GET(self) -> None:
        self.state.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
        self.send(404, b"", "text/plain")


@pytest.fixture
def asked() -> list[tuple[str, dict[str, str]]]:
    return []


@pytest.fixture
def url(asked: list[tuple[str, dict[str, str]]]) -> Iterator[str]:
    with serving(Handler, asked) as url:
        yield url


@pytest.fixture
def files(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The files of a user of AWS's tools."""
    for name, text in FILES.items():
        lines = [line.strip() for line in text.replace("URL", url).splitlines()]
        (tmp_path / name).write_text("\n".join(lines))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))


def ask(url: str, at: str, settings: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in settings.items():
        monkeypatch.setenv(name, value.replace("URL", at))
    assert storage.find_json(url) is None


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize(
    ("settings", "key", "region"),
    [
        ({**AT}, "AKDEFAULT", "eu-central-1"),
        ({**AT, "AWS_PROFILE": "default"}, "AKDEFAULT", "eu-central-1"),
        ({**AT, "AWS_PROFILE": "other"}, "AKOTHER", "eu-west-3"),
        ({"AWS_PROFILE": "third"}, "AKTHIRD", "us-east-1"),  # its endpoint is in the file
        ({**AT, "AWS_PROFILE": "third", "AWS_REGION": "sa-east-1"}, "AKTHIRD", "sa-east-1"),
        ({**AT, "AWS_DEFAULT_REGION": "sa-east-1"}, "AKDEFAULT", "sa-east-1"),
        ({**AT, **KEYS}, "AKENV", "eu-central-1"),
        ({**AT, **KEYS, "AWS_PROFILE": "other"}, "AKENV", "eu-west-3"),
        ({"AWS_ENDPOINT_URL_S3": "URL", "AWS_ENDPOINT_URL": "http://127.0.0.1:1"}, "AKDEFAULT", "eu-central-1"),
        ({**AT, "AWS_SKIP_SIGNATURE": "true"}, None, None),
    ],
)
def test_credentials_and_region_of_s3(
    settings: dict[str, str],
    key: str | None,
    region: str | None,
    url: str,
    asked: list[tuple[str, dict[str, str]]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ask("s3://bucket/x", url, settings, monkeypatch)
    path, headers = asked[0]
    assert path == "/bucket/x"
    if key is None:
        assert "authorization" not in headers
    else:
        signed_as = headers["authorization"].split("Credential=")[1].split(",")[0].split("/")
        assert (signed_as[0], signed_as[2], signed_as[3]) == (key, region, "s3")
    assert headers.get("x-amz-security-token") == ("token-of-other" if key == "AKOTHER" else None)


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize("profile", ["sso", "nobody"])
def test_a_profile_without_keys_is_refused(profile: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", profile)
    with pytest.raises(StorageRefused, match=f"^AWS_PROFILE: profile {profile} has no aws_access_key_id; .*export"):
        storage.exists("s3://bucket/x")


@pytest.mark.usefixtures("files")
def test_a_service_account_of_eks_comes_before_a_profile(
    url: str, asked: list[tuple[str, dict[str, str]]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Its token cannot be exchanged here, and nothing is asked in anyone else's name."""
    (tmp_path / "token").write_text("a.b.c")
    monkeypatch.setattr(failures, "RETRY_TIMEOUT", 0.2)
    monkeypatch.setattr(failures, "RETRY_DELAYS", (0.01, 0.1))
    monkeypatch.setenv("AWS_ENDPOINT_URL", url)
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", "https://127.0.0.1:1")
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(tmp_path / "token"))
    monkeypatch.setenv("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/twhin")
    with pytest.raises(StorageError, match=r"^s3://bucket/x: "):
        storage.read_text("s3://bucket/x")
    assert asked == []


@pytest.mark.parametrize(
    ("settings", "path"),
    [
        (
            {"AZURE_STORAGE_ACCOUNT_NAME": "one", "AZURE_STORAGE_ACCOUNT_KEY": KEY, "AZURE_STORAGE_ENDPOINT": "URL/e"},
            "/e",
        ),
        ({"AZURE_STORAGE_ACCOUNT": "one", "AZURE_STORAGE_KEY": KEY, "AZURE_STORAGE_ENDPOINT": "URL/e"}, "/e"),
        ({"AZURE_STORAGE_CONNECTION_STRING": f"AccountName=one;AccountKey={KEY};BlobEndpoint=URL/one"}, "/one"),
    ],
)
def test_credentials_of_azure(
    settings: dict[str, str],
    path: str,
    url: str,
    asked: list[tuple[str, dict[str, str]]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ask("abfs://container/x", url, settings, monkeypatch)
    assert asked[0][0] == f"{path}/container/x"
    assert asked[0][1]["authorization"].startswith("SharedKey one:")


def test_the_account_in_the_url_and_a_shared_access_signature(
    url: str, asked: list[tuple[str, dict[str, str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"AZURE_STORAGE_SAS_TOKEN": "sv=2020&sig=abc", "AZURE_STORAGE_ENDPOINT": "URL"}
    ask("abfs://container@two.dfs.core.windows.net/x", url, settings, monkeypatch)
    assert asked[0][0] == "/container/x?sv=2020&sig=abc"


def test_only_what_is_sent_has_to_be_ascii(
    url: str, asked: list[tuple[str, dict[str, str]]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "clé").write_text("[bureau é]\naws_access_key_id = AKONE\naws_secret_access_key = one\n")
    settings = {**AT, "AWS_PROFILE": "bureau é", "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "clé")}
    ask("s3://bucket/x", url, settings, monkeypatch)
    assert "AKONE" in asked[0][1]["authorization"]


@pytest.mark.parametrize(
    ("settings", "place", "named"),
    [
        ({"AWS_ENDPOINT_URL": "minio:9000"}, "s3://bucket/x", "AWS_ENDPOINT_URL"),
        ({"AWS_ENDPOINT_URL_S3": "minio:9000", "AWS_ENDPOINT_URL": "URL"}, "s3://bucket/x", "AWS_ENDPOINT_URL_S3"),
        ({"AZURE_STORAGE_ENDPOINT": "minio:9000"}, "abfs://c@one.dfs.core.windows.net/x", "AZURE_STORAGE_ENDPOINT"),
        (
            {"AZURE_STORAGE_CONNECTION_STRING": f"AccountName=one;AccountKey={KEY};BlobEndpoint=minio:9000"},
            "abfs://c/x",
            "AZURE_STORAGE_CONNECTION_STRING",
        ),
    ],
)
def test_an_endpoint_without_a_scheme_is_refused(
    settings: dict[str, str], place: str, named: str, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(StorageRefused, match=f"^{named}: 'minio:9000' does not begin with http:// or https://$"):
        ask(place, url, settings, monkeypatch)


def test_an_account_is_needed() -> None:
    with pytest.raises(StorageRefused, match=r"^abfs://container: set AZURE_STORAGE_ACCOUNT_NAME, or name the account"):
        storage.exists("abfs://container/x")


def test_settings_that_change_are_followed(
    url: str, asked: list[tuple[str, dict[str, str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    for key in ("AKONE", "AKTWO"):
        ask("s3://bucket/x", url, {**environment_at("s3", url), "AWS_ACCESS_KEY_ID": key}, monkeypatch)
    assert ["AKTWO" in headers["authorization"] for _, headers in asked] == [False, True]
