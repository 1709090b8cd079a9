# Where uv is not on the PATH, `python3 -m uv tool run --from rust-just just …` tells its children where it is.
uv := env("UV", "uv")
# The same date as in the scripts' headers: no newer package, so that what passed once passes again.
newest := "2026-11-15T00:00:00Z"
# What the tests need beside the scripts' own packages.
tools := "--with pytest --with pytest-xdist --with hypothesis --with mypy --with ruff --with cogapp --with openpyxl --with 'dask[distributed]' --with nbclient --with ipykernel --with playwright"

set positional-arguments

# List the recipes
[private]
default:
    @{{ just_executable() }} --list

# Run all tests (3 to 4 minutes on two cores; skipped ones say why), or some: `just test -k replay`
test *args:
    "{{ uv }}" run --no-project --isolated --python '>=3.11' --exclude-newer {{ newest }} {{ tools }} \
        $(printf -- '--with-requirements %s ' scripts/*.py) python -m pytest -n 3 --dist worksteal -rs --durations 3 "$@"

# Check the code only: ruff, the type checker, the copies of lib/
lint: (test "tests/collection_test.py" "tests/vendor_test.py" "-k" "ruff or type_checker or lib_holds")

# Repeat the crash tests 50 times instead of 5
soak $VT_TEST_ROUNDS="50": (test "-k" "crash or kill")

# Format the code, and fix what ruff can fix
format:
    "{{ uv }}" tool run --exclude-newer {{ newest }} ruff format
    "{{ uv }}" tool run --exclude-newer {{ newest }} ruff check --fix

# Copy lib/ into the scripts
vendor:
    "{{ uv }}" tool run --exclude-newer {{ newest }} --with ruff --from cogapp cog -r -I lib -p 'from vendor import vendor' scripts/*.py

# Record VirusTotal's real responses over the constructed ones (needs a key): `just record scripts/NAME.py ARGUMENTS…`
record *command:
    "{{ uv }}" run scripts/replay.py --record "$@"

# Measure feed_dump beside vt-py and beside what the machine can do
bench *args:
    "{{ uv }}" run tests/benchmarks/feed_dump_bench.py "$@"

# Draw the README's picture from a run of its first command
picture:
    "{{ uv }}" run .github/picture.py .github/output.svg

# Draw the README's pictures of a report (needs chromium)
screenshots:
    "{{ uv }}" run .github/screenshots.py
