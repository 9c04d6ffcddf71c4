"""Bytes for everything that reads a file: it tells a mistake in one line, or gives what it promises."""
