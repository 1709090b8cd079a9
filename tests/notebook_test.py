"""Notebooks: the scripts' functions and the client work in a running event loop, without nest_asyncio."""

from __future__ import annotations

import inspect
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import SCRIPTS, Server, collection, environment, file_object, load

nbclient = pytest.importorskip("nbclient")
nbformat = pytest.importorskip("nbformat")

CELLS = {
    "a search as a DataFrame": """
from search_to_pandas import search_to_dataframe
frame = await search_to_dataframe("entity:file p:5+", limit=2)
print(len(frame), frame.attrs)
""",
    "objects one by one": """
from search import search
print([item["type"] async for item in search("entity:file p:5+", limit=2)])
""",
    "a look-up": """
from lookup import lookup
print([item["id"][-1] async for item in lookup(["0" * 63 + "1", "0" * 63 + "2"])])
""",
    "addresses": """
from search_to_urls import search_to_urls
print([url async for url in search_to_urls("entity:url p:3+", limit=1)])
""",
    "the client": """
from search import VirusTotal
async with VirusTotal() as client:
    file = await client.get_object_async("/files/{}", "0" * 63 + "1")
print(file.meaningful_name)
""",
    "a synchronous call": """
client = VirusTotal()
try:
    client.get_object("/files/1")
except RuntimeError as error:
    print(error)
await client.close_async()
""",
    "the end": """
import gc
del client
gc.collect()
print("end")
""",
}


# What a notebook imports from each script, and the command that does the same.
FUNCTIONS = [
    ("search", "search", "main"),
    ("search_to_urls", "search_to_urls", "main"),
    ("search_to_pandas", "search_to_dataframe", "main"),
    ("search_to_network_infrastructure", "search_to_infrastructure", "main"),
    ("collection_to_indicators", "collection_to_indicators", "main"),
    ("lookup", "lookup", "main"),
    ("ioc_stream", "ioc_stream", "main"),
    ("retrohunt", "matches", "matches_command"),
    ("download", "download", "main"),
    ("download", "download_archive", "main"),
    ("sandbox_artifacts", "list_reports", "main"),
    ("sandbox_artifacts", "save_artifacts", "main"),
    ("scan", "scan", "main"),
]


@pytest.mark.parametrize(("script", "function", "command"), FUNCTIONS)
def test_a_function_takes_the_options_of_its_command(script: str, function: str, command: str) -> None:
    module = load(script)
    _, *options = inspect.signature(getattr(module, function)).parameters.values()
    defaults = {p.name: p.default for p in inspect.signature(getattr(module, command)).parameters.values()}
    assert "apikey" in [option.name for option in options]
    for option in options:
        assert option.kind is not option.POSITIONAL_OR_KEYWORD or option.default is option.empty
        assert option.name not in defaults or (option.default or None) == (defaults[option.name] or None)


@pytest.fixture
def outputs(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Run all cells in one notebook, and return what each printed, errors and warnings too."""
    files = [file_object(n) for n in (1, 2)]
    url = {"type": "url", "id": "0" * 64, "attributes": {"url": "http://evil.example/"}}
    server.answer("/intelligence/search", collection(*files), collection(*files), collection(url))
    for file in files:
        server.answer(f"/files/{file['id']}", {"data": file})
    for name, value in environment(tmp_path, server, PYTHONPATH=str(SCRIPTS), PYTHONDEVMODE="1").items():
        monkeypatch.setenv(name, value)
    for name in [name for name in os.environ if name.startswith("VT_RATE")]:
        monkeypatch.delenv(name)
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    cells = [nbformat.v4.new_code_cell(source) for source in CELLS.values()]
    notebook = nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel})
    nbclient.NotebookClient(notebook, timeout=60, resources={"metadata": {"path": str(tmp_path)}}).execute()

    def text(cell: Any) -> str:
        return "".join(output.get("text", "") for output in cell.outputs)

    return {name: text(cell) for name, cell in zip(CELLS, notebook.cells, strict=True)}


@pytest.mark.skipif(sys.platform == "win32", reason="the kernel needs another event loop on Windows")
def test_a_notebook_needs_nothing_but_await(outputs: dict[str, str]) -> None:
    assert outputs["a search as a DataFrame"].startswith("2 {'complete': True, 'error': None, 'cursor': None")
    assert "['file', 'file']" in outputs["objects one by one"]
    assert "['1', '2']" in outputs["a look-up"]
    assert outputs["addresses"] == "['http://evil.example/']\n"
    assert "sample-1.exe" in outputs["the client"]
    assert "get_object_async" in outputs["a synchronous call"]
    assert len(outputs["a synchronous call"].splitlines()) == 1
    assert outputs["the end"] == "end\n"
    assert "Unclosed" not in "".join(outputs.values())
