"""A worker for OmniQ that runs one task after the other on its event loop: an example."""
