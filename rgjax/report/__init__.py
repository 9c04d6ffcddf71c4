"""The report on sweeps and single runs: tables, figures, page and verification."""
