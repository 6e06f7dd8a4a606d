"""Local chat."""
