"""One encoder per architecture family."""
