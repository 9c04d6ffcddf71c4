"""Where a command meets the system that runs it: signals and standard streams."""
