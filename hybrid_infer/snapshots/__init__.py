"""Files only: where snapshots are, how they get there, and the seeded tiny ones. No torch."""
