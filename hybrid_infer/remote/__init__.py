"""The remote half: one wire client, one request and one response function per dialect."""
