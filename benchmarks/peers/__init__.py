"""The peers' side: the same task, each in the way its own documentation shows. `python -m peers.NAME enqueue|work`."""
