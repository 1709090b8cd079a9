# Where uv is not on the PATH, `python3 -m uv tool run --from rust-just just …` tells its children where it is.
uv := env("UV", "uv")
# The same date as in the scripts' headers: no newer package, so that what passed once passes again.
newest := "2026-11-15T00:00:00Z"
# What the tests need beside the scripts' own packages.
tools := "--with pytest --with pytest-xdist --with mypy --with ruff --with cogapp --with duckdb --with 'dask[distributed]'"

set positional-arguments

# Say what there is to do
[private]
default:
    @{{ just_executable() }} --list

# Run all that must hold (or what pytest is told: `just test -k replay`), in an environment of the scripts' own headers
test *args:
    "{{ uv }}" run --no-project --isolated --python '>=3.11' --exclude-newer {{ newest }} {{ tools }} \
        $(printf -- '--with-requirements %s ' scripts/*.py) python -m pytest -n 4 --dist worksteal "$@"

# The part of `just test` that reads the code: ruff, the type checker, the copies of lib/
lint: (test "tests/collection_test.py" "-k" "ruff or type_checker or vendored")

# Format, and mend what ruff can mend
format:
    "{{ uv }}" tool run --exclude-newer {{ newest }} ruff format
    "{{ uv }}" tool run --exclude-newer {{ newest }} ruff check --fix

# Copy lib/ into the scripts
vendor:
    "{{ uv }}" tool run --exclude-newer {{ newest }} --from cogapp cog -r -I lib -p 'from vendor import vendor' scripts/*.py

# Record VirusTotal's real answers over the constructed ones (needs a key): `just record scripts/NAME.py ARGUMENTS…`
record *command:
    "{{ uv }}" run scripts/replay.py --record "$@"

# Measure feed_dump beside vt-py and beside what the machine can do
bench *args:
    "{{ uv }}" run tests/benchmarks/feed_dump_bench.py "$@"

# Draw the README's picture from a run of the talk's query
picture:
    "{{ uv }}" run .github/picture.py .github/output.svg
