"""Importing this first patches the standard library of a process in which nothing but tasks runs."""

from gevent import get_hub, monkey

monkey.patch_all()
# A first hub that is made beside another imports what that imports, and both wait for each other.
get_hub()
