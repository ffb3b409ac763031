"""A kit for stores on SQL databases: what their verbs do, written once and apart from any driver.

A verb is a generator: it yields `omniq.storage.sql.steps`, gets what the database answers to each, and returns what the
contract asks for. SQL differs less than drivers do; where it does, a statement leaves it to the store's
`omniq.storage.sql.steps`. So a store writes a dialect, a loop that carries steps out, and those verbs for which its
database has a better way.
"""
