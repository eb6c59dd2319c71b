"""Pages of text, from parquet to packed sequences."""
