"""Buckets, gathers and the round trip of one window."""

from templar_pl.exchange.aggregates import AggregatePublisher, AggregateSource, StandingManifest, read_aggregate
from templar_pl.exchange.credentials import (
    BucketAddress,
    R2Credentials,
    RunStore,
    credentials_from,
    parse_address,
    run_store_from,
)
from templar_pl.exchange.gather import Gathered, Interval, Request, gather
from templar_pl.exchange.judgements import fetch_peer_list, fetch_score_record, publish_peer_list, standing_peer_list
from templar_pl.exchange.large_objects import FileDigest, LargeBucket, LargeReader
from templar_pl.exchange.local_store import LocalBucket, LocalBuckets, LocalReader
from templar_pl.exchange.publish import Published, publish
from templar_pl.exchange.r2_options import R2Options
from templar_pl.exchange.r2_store import R2Bucket, R2Buckets, R2Reader
from templar_pl.exchange.retention import Retention
from templar_pl.exchange.run_files import fetch_run_file, own_run_file, publish_run_file
from templar_pl.exchange.store import Bucket, BucketReader, Buckets, ObjectInfo

__all__ = [
    "AggregatePublisher",
    "AggregateSource",
    "Bucket",
    "BucketAddress",
    "BucketReader",
    "Buckets",
    "FileDigest",
    "Gathered",
    "Interval",
    "LargeBucket",
    "LargeReader",
    "LocalBucket",
    "LocalBuckets",
    "LocalReader",
    "ObjectInfo",
    "Published",
    "R2Bucket",
    "R2Buckets",
    "R2Credentials",
    "R2Options",
    "R2Reader",
    "Request",
    "Retention",
    "RunStore",
    "StandingManifest",
    "credentials_from",
    "fetch_peer_list",
    "fetch_run_file",
    "fetch_score_record",
    "gather",
    "own_run_file",
    "parse_address",
    "publish",
    "publish_peer_list",
    "publish_run_file",
    "read_aggregate",
    "run_store_from",
    "standing_peer_list",
]
