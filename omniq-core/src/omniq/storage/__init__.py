"""The contract that every store implements, and, lazily, the installed result and event stores."""
