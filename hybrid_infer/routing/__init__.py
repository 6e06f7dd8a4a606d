"""Decisions only: no torch, no HTTP, no sleep, no clock of its own, no thread."""
