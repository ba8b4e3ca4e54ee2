"""Azure Blob Storage.

Credentials come, in this order, from the environment, from workload identity (a federated token) and from the machine's
metadata server. obstore reads them, but for a connection string.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from obstore.store import AzureStore

from twhin_core.errors import StorageRefused
from twhin_core.stores.obstore_filesystem import ObstoreFileSystem
from twhin_core.stores.obstore_settings import client_options

if TYPE_CHECKING:
    from obstore.store import AzureConfig, RetryConfig

# Names of Azure's command line, and of connection strings, beside obstore's own.
NAMES = {
    "AZURE_STORAGE_ACCOUNT": "account_name",
    "AZURE_STORAGE_KEY": "account_key",
    "AZURE_STORAGE_SAS_TOKEN": "sas_key",
}
CONNECTION_STRING, ENDPOINT = "AZURE_STORAGE_CONNECTION_STRING", "AZURE_STORAGE_ENDPOINT"
CONNECTION_NAMES = {
    "AccountName": "account_name",
    "AccountKey": "account_key",
    "SharedAccessSignature": "sas_key",
    "BlobEndpoint": "endpoint",
}


class Azure(ObstoreFileSystem):
    protocol = "abfs"
    prefix = "AZURE_"
    credentials = "AZURE_STORAGE_ACCOUNT_KEY, AZURE_STORAGE_SAS_KEY, or AZURE_CLIENT_ID"

    @staticmethod
    def connect(bucket: str, given: dict[str, str], retries: RetryConfig) -> AzureStore:
        """A client of `container` or `container@account.dfs.core.windows.net`."""
        config = {key: given[name] for name, key in NAMES.items() if name in given}
        parts = (part.split("=", 1) for part in given.get(CONNECTION_STRING, "").split(";") if "=" in part)
        config |= {CONNECTION_NAMES[name]: value for name, value in parts if name in CONNECTION_NAMES}
        container, _, host = bucket.partition("@")
        if host:
            config["account_name"] = host.partition(".")[0]
            if ENDPOINT not in given:
                config.setdefault("endpoint", f"https://{host.replace('.dfs.', '.blob.', 1)}")
        if not config.get("account_name") and "AZURE_STORAGE_ACCOUNT_NAME" not in given:
            raise StorageRefused(
                f"abfs://{bucket}: set AZURE_STORAGE_ACCOUNT_NAME, or name the account: "
                f"abfs://{bucket}@ACCOUNT.dfs.core.windows.net"
            )
        setting = CONNECTION_STRING if "endpoint" in config else ENDPOINT
        options = client_options(config.get("endpoint") or given.get(ENDPOINT), setting)
        return AzureStore(container, config=cast("AzureConfig", config), client_options=options, retry_config=retries)
