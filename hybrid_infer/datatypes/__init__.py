"""Data that every layer shares, and the deadline that travels with a call. No I/O."""
