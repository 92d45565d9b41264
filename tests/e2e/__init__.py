"""Black-box tests of a running server."""
