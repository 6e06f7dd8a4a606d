"""The paths, one file a family."""
