"""Buckets, gathers and the round trip of one window."""

from templar_pl.exchange.gather import Gathered, Interval, Request, gather
from templar_pl.exchange.local_store import LocalBucket, LocalBuckets, LocalReader
from templar_pl.exchange.publish import Published, publish
from templar_pl.exchange.retention import Retention
from templar_pl.exchange.store import Bucket, BucketReader, Buckets, ObjectInfo

__all__ = [
    "Bucket",
    "BucketReader",
    "Buckets",
    "Gathered",
    "Interval",
    "LocalBucket",
    "LocalBuckets",
    "LocalReader",
    "ObjectInfo",
    "Published",
    "Request",
    "Retention",
    "gather",
    "publish",
]
