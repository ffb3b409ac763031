"""The bare loops: what one Python process can reach on a store. `python -m probes.NAME`."""
