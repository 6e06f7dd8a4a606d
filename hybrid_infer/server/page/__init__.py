"""The page at ``/``: one file, without anything from elsewhere."""
