"""The data models, and, lazily, the configuration structs of the installed stores."""
