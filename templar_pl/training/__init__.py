"""Everything that touches Lightning."""
