"""Read tables: formats, dialects, columns and the paths in them."""
