"""`python -m omniq`: the `omniq` command of this interpreter."""

from __future__ import annotations

from omniq.cli import main

main()
