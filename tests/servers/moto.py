"""A quick S3 server in this process: moto. It checks no keys and keeps everything in memory."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable, Iterator

import boto3
from moto.server import ThreadedMotoServer

from tests.servers.nodes import credentials


@contextlib.contextmanager
def moto(buckets: Iterable[str]) -> Iterator[str]:
    """Run a server with a bucket for each of some nodes; yields its address."""
    logging.getLogger("werkzeug").setLevel(logging.WARNING)  # it logs every request
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        url = f"http://{host}:{port}"
        session = boto3.Session("any", "any", region_name="us-east-1")  # it checks no keys
        client = session.client("s3", endpoint_url=url)
        for node in buckets:
            client.create_bucket(Bucket=credentials(node, url).address.account)
        client.close()
        yield url
    finally:
        server.stop()
