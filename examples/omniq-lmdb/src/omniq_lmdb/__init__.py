"""LMDB for OmniQ."""
