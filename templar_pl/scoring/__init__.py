"""Pure functions from records to scores and weights."""
