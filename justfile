# One-word tasks: `uv run just TASK`. What CI does is `.ci/run`.

set positional-arguments

# The uv that runs this, wherever it is.
uv := env("UV", "uv")

_list:
    @just --list --unsorted

# Format the code and sort its imports.
fmt:
    {{uv}} run ruff format
    {{uv}} run ruff check --fix

# Find mistakes and style breaks.
lint:
    {{uv}} run ruff format --check
    {{uv}} run ruff check

# Check the types, strictly.
types:
    {{uv}} run mypy

# Check that an import only ever goes down.
arch:
    {{uv}} run lint-imports

# Run all tests, or those that the arguments select.
test *ARGS:
    {{uv}} run pytest "$@"

# Run the tests that need no server and take no time, in some minutes.
quick *ARGS:
    {{uv}} run pytest -n auto -m "not server and not slow and not starvable" "$@"

# Build the site into dist/site, and run every example in the README and in docs/.
docs *ARGS:
    NO_MKDOCS_2_WARNING=1 {{uv}} run mkdocs build --strict
    {{uv}} run pytest tests/docs "$@"

# Take the pictures of the terminal anew, and draw the states.
pictures:
    {{uv}} run python scripts/pictures.py
    {{uv}} run python scripts/states.py

# Show which lines the tests don't reach; all of them, unless the arguments select some. Coverage itself imports and writes.
coverage *ARGS:
    {{uv}} run pytest -n auto --dist worksteal --cov --cov-report=term "$@" \
        --ignore tests/core/test_lazy_imports.py \
        --deselect tests/core/plugins/test_registry.py::test_looking_up_imports_no_store \
        --deselect tests/core/cli/test_new_plugins.py::test_nothing_is_left_half_written

# Move all dependencies to their newest versions and pin them.
pin:
    {{uv}} run python scripts/pin.py

# Compare the speed with a peer and with a bare probe of the same store.
bench *ARGS="sqlite":
    {{uv}} run python benchmarks/compare.py "$@"

# Run rude tasks among innocent ones on a worker.
rude *ARGS:
    {{uv}} run python -m tests.reliability.rude "$@"

# Kill workers for as long as you like, and check every promise afterwards.
soak *ARGS:
    {{uv}} run python -m tests.reliability.soak "$@"

# Cut replies, reset connections, delay, refuse, fill and silence a server, and check that nothing is lost.
faults *ARGS:
    {{uv}} run python -m tests.reliability.faults "$@"
