"""Buckets, gathers and the round trip of one window."""
