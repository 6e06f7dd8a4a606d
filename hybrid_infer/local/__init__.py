"""The local half: the same models, loaded into this process."""
