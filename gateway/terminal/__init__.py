"""`parley chat`: a client for the terminal. What to do and what to show is decided without I/O; `shell` does it."""
