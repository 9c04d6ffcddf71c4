"""Decode images: files, and images inside parquet and .npz files."""
