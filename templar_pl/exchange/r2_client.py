"""boto3 clients that take nothing from the machine: neither `~/.aws` nor `AWS_*` nor proxies of the environment."""

from __future__ import annotations

import logging
import os
import threading
from dataclasses import dataclass
from typing import Any

import boto3.session
import botocore.session
from botocore.config import Config
from botocore.configprovider import BOTOCORE_DEFAUT_SESSION_VARIABLES, ConfigValueStore, ConstantProvider
from botocore.loaders import Loader

from templar_pl.exchange.credentials import AccessKey
from templar_pl.exchange.r2_http import BoundedHttp
from templar_pl.exchange.r2_options import R2Options

REGION = "auto"
"""R2's only region; other stores take any name."""

_TALKATIVE = ("botocore", "boto3")


class Clients:
    """One client per endpoint and key, made when it is first asked for and shared by all threads.

    A client takes about 9 ms of a processor to make, the first one about 0.2 s more.
    """

    def __init__(self, options: R2Options) -> None:
        self._options = options
        self._lock = threading.Lock()  # guards all below
        self._session: boto3.session.Session | None = None
        self._clients: dict[tuple[str, AccessKey], _Client] = {}

    def get(self, endpoint_url: str, key: AccessKey) -> Any:
        """Return the client for an endpoint and a key; nothing is connected before it is used."""
        _silence_secrets()
        with self._lock:
            client = self._clients.get((endpoint_url, key))
            if client is None:
                if self._session is None:
                    self._session = _isolated_session()
                client = self._clients[endpoint_url, key] = _make(self._session, endpoint_url, key, self._options)
            return client.s3

    def close(self) -> None:
        """Close all connections that are not in use. Clients asked for later are new ones."""
        with self._lock:
            clients, self._clients = list(self._clients.values()), {}
        for client in clients:
            client.s3.close()
            client.http.close()


@dataclass(frozen=True, slots=True)
class _Client:
    """A client and what sends its requests."""

    s3: Any
    http: BoundedHttp


def _isolated_session() -> boto3.session.Session:
    core = botocore.session.Session()
    defaults = {name: ConstantProvider(value[2]) for name, value in BOTOCORE_DEFAUT_SESSION_VARIABLES.items()}
    files = dict.fromkeys(("config_file", "credentials_file"), ConstantProvider(os.devnull))
    core.register_component("config_store", ConfigValueStore(defaults | files))
    # The default loader would also take models of services from ~/.aws/models.
    loader = Loader(extra_search_paths=[Loader.BUILTIN_DATA_PATH], include_default_search_paths=False)
    core.register_component("data_loader", loader)
    return boto3.session.Session(botocore_session=core)


def _make(session: boto3.session.Session, endpoint_url: str, key: AccessKey, options: R2Options) -> _Client:
    http = BoundedHttp(options)
    client: Any = session.client(
        "s3",
        endpoint_url=endpoint_url,
        region_name=REGION,
        aws_access_key_id=key.key_id,
        aws_secret_access_key=key.secret.reveal(),
        config=Config(
            retries={"total_max_attempts": 1, "mode": "standard"},
            # The newer default sends checksums in trailers, which not every store understands.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            # A host name per bucket would need a DNS entry and a certificate per bucket.
            # MD5 checks a body. A hash in the signature would have to be known before the first byte leaves.
            s3={"addressing_style": "path", "payload_signing_enabled": False},
            signature_version="s3v4",
            proxies={},
        ),
    )
    client.meta.events.register_last("before-call.s3", _do_not_wait_for_continue)
    client.meta.events.register_last("before-parameter-build.s3", _do_not_move)
    client.meta.events.register("before-send.s3", http.send)
    return _Client(client, http)


def _do_not_wait_for_continue(params: dict[str, Any], **_: object) -> None:
    """Send a body at once. R2 knows no `100 Continue`, and botocore would wait a second for it with every put."""
    params["headers"].pop("Expect", None)


def _do_not_move(context: dict[str, Any], **_: object) -> None:
    """Take a redirect for a refusal: botocore would ask after the bucket's region, and again if that is redirected."""
    context["s3_redirect"]["redirected"] = True


def _silence_secrets() -> None:
    """Keep the details of these libraries out of every log: they show headers with signatures and whole answers.

    Done before each request and not once, since whoever sets up logging may do so after the first.
    """
    for name in _TALKATIVE:
        logger = logging.getLogger(name)
        if logger.level < logging.INFO:
            logger.setLevel(logging.INFO)
