"""A real TCP server that behaves like the remote, and pytest fixtures around it: public, for users' own tests."""
