"""Other servers under the same load: what users would pick instead, started beside Parley when it is installed."""
