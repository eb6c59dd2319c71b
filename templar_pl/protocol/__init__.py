"""Pure values and bytes all nodes agree on: keys, pages, schedule, payloads, fingerprints."""
