"""Curation against stock datatrove: the figures of `make bench-curation`, as a table and as JSON.

    python benchmarks/curation.py --out out/bench [--pages 20000] [--compared 5200] [--ground-truth FOLDER]

The pages are English HTML documentation from Debian packages, downloaded once into `out/bench/pages`. Chains run in
processes of their own, one at a time, stock and ours in turn on the same files; what counts is their processor time,
start-up included. Other parts are the benchmarks beside this one, each of which compares stock and ours in one run.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from crawl_pages import PAGES_PER_FILE, crawl
from projection import project

from illada.artifacts import write_json
from pipelines.documents import read_documents
from pipelines.languages import known_languages

HERE = Path(__file__).parent
VERSIONS = ("datatrove", "trafilatura", "resiliparse", "fastwarc", "spacy", "numba", "tokenizers", "gigatoken", "ray")
EXACT = {"languages": ["en"], "extraction": "exact", "language_characters": None}
FAST = {"languages": ["en"], "extraction": "fast"}
EVERYTHING = {"languages": list(known_languages()), "extraction": "fast", "privacy": True}


def main() -> None:
    """Run the parts that are asked for, write `curation.json`, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out/bench"))
    parser.add_argument("--pages", type=int, default=20_000, help="pages in all")
    parser.add_argument("--compared", type=int, default=5_000, help="pages that the stock chain gets as well")
    parser.add_argument("--ground-truth", type=Path, help="folder for benchmarks/extraction.py")
    arguments = parser.parse_args()
    out: Path = arguments.out.resolve()
    started = time.time()
    files = crawl(out / "pages", arguments.pages)
    compared = files[: max(2, arguments.compared // PAGES_PER_FILE)]
    results: dict[str, Any] = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "versions": {name: metadata.version(name) for name in VERSIONS},
        "load_before": os.getloadavg(),
        "chains": chains(files, compared, out),
        "growth": growth(files, out),
        "every_block": run_own(compared[:1], EVERYTHING, out / "everything"),
        "parts": {},
    }
    for name, command in parts(out, arguments.ground_truth, files).items():
        done = subprocess.run([sys.executable, *command], capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr[-2000:]}")
        results["parts"][name] = json.loads(done.stdout)
    results["pages_per_second"] = rates(results["chains"])
    results["projection"] = project(
        results["pages_per_second"],
        results["parts"]["minhash"]["documents_per_second"],
        {
            side: results["parts"]["tokenization"]["tokens_per_second_and_core"][way]
            for side, way in (("stock", "stock"), ("own", "gigatoken"))
        },
    )
    results["load_after"], results["wall_seconds"] = os.getloadavg(), round(time.time() - started)
    write_json(out / "curation.json", results)
    print(table(results))


def chains(files: Sequence[Path], compared: Sequence[Path], out: Path) -> dict[str, Any]:
    """Processor seconds of each chain, in two rounds over halves of `compared`; the fast one on all `files` as well."""
    rounds = []
    for half in (compared[: len(compared) // 2], compared[len(compared) // 2 :]):
        stock_seconds = run_stock(half, out / "stock")
        exact = run_own(half, EXACT, out / "exact")
        fast = run_own(half, FAST, out / "fast")
        rounds.append(
            {
                "pages": exact["funnel"][0]["documents_in"],
                "stock_cpu_seconds": stock_seconds,
                "exact_cpu_seconds": exact["cpu_seconds"],
                "fast_cpu_seconds": fast["cpu_seconds"],
                "kept": compare(stock_texts(out / "stock"), own_texts(Path(exact["artifact"]))),
                "kept_fast": fast["funnel"][-1]["documents_out"],
            }
        )
    everything = run_own(files, FAST, out / "fast")
    return {"rounds": rounds, "fast_on_all": everything}


def growth(files: Sequence[Path], out: Path) -> dict[str, Any]:
    """Processor seconds and peak memory of the fast chain on half the files and on all of them, in turn."""
    half = [run_own(files[: len(files) // 2], FAST, out / "fast") for _ in range(2)]
    whole = [run_own(files, FAST, out / "fast") for _ in range(2)]
    return {
        "pages": [run["funnel"][0]["documents_in"] for run in (half[0], whole[0])],
        "cpu_seconds": [[run["cpu_seconds"] for run in runs] for runs in (half, whole)],
        "megabytes": [[run["megabytes"] for run in runs] for runs in (half, whole)],
    }


def parts(out: Path, ground_truth: Path | None, files: Sequence[Path]) -> dict[str, list[str]]:
    """The other benchmarks as commands whose output is JSON; `out/fast` holds what the fast chain kept of `files`."""
    documents = [str(path) for path in sorted((out / "fast").glob("curate/*/attempt-*/documents/*.parquet"))]
    commands = {
        "minhash": ["minhash.py", *documents],
        "tokenization": ["tokenization.py", "--documents", "6000", "--rounds", "2"],
        "pool": ["pool.py", "--units", "2000", "--rounds", "1"],
    }
    if ground_truth is not None:
        commands["extraction"] = ["extraction.py", "--pages", str(ground_truth)]
    return {name: [str(HERE / script), *options] for name, (script, *options) in commands.items()}


def run_stock(files: Sequence[Path], output: Path) -> float:
    """Processor seconds of `stock_chain.py`."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        [sys.executable, str(HERE / "stock_chain.py"), str(output), *map(str, files)],
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return round(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, 2)


def run_own(files: Sequence[Path], settings: dict[str, Any], output: Path) -> dict[str, Any]:
    """What `own_chain.py` prints; `output` is emptied first."""
    shutil.rmtree(output, ignore_errors=True)
    done = subprocess.run(
        [sys.executable, str(HERE / "own_chain.py"), str(output), json.dumps(settings), *map(str, files)],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def stock_texts(output: Path) -> dict[str, str]:
    """Kept texts by URL."""
    texts = {}
    for path in sorted((output / "kept").glob("*.jsonl.gz")):
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            for line in lines:
                row = json.loads(line)
                texts[row["metadata"]["url"]] = row["text"]
    return texts


def own_texts(artifact: Path) -> dict[str, str]:
    """Kept texts by URL."""
    files = sorted((artifact / "documents").glob("*.parquet"))
    return {document.url: document.text for file in files for document in read_documents(file)}


def compare(stock: dict[str, str], own: dict[str, str]) -> dict[str, Any]:
    """How far two sets of kept texts are the same; differences by URL."""
    both = stock.keys() & own.keys()
    different = sorted(url for url in both if stock[url] != own[url])
    return {
        "stock": len(stock),
        "own": len(own),
        "identical": len(both) - len(different),
        "different": different[:20],
        "only_stock": sorted(stock.keys() - own.keys())[:20],
        "only_own": sorted(own.keys() - stock.keys())[:20],
    }


def rates(measured: Mapping[str, Any]) -> dict[str, float]:
    """Pages a processor second by chain: stock and exact over both rounds, fast over all pages."""
    pages = sum(part["pages"] for part in measured["rounds"])
    everything = measured["fast_on_all"]
    return {
        "stock": pages / sum(part["stock_cpu_seconds"] for part in measured["rounds"]),
        "exact": pages / sum(part["exact_cpu_seconds"] for part in measured["rounds"]),
        "fast": everything["funnel"][0]["documents_in"] / everything["cpu_seconds"],
    }


def in_all(megabytes: Mapping[str, int]) -> int:
    """A worker's memory and its sandbox's: what both share is counted twice."""
    return sum(megabytes.values())


def table(results: Mapping[str, Any]) -> str:
    """What was measured beside what was aimed at, one line each."""
    stock, exact, fast = (results["pages_per_second"][chain] for chain in ("stock", "exact", "fast"))
    kept = [part["kept"] for part in results["chains"]["rounds"]]
    identical, of = sum(part["identical"] for part in kept), sum(part["stock"] for part in kept)
    growth, other = results["growth"], results["parts"]
    half, whole = (min(seconds) for seconds in growth["cpu_seconds"])
    minhash, tokens, small = other["minhash"], other["tokenization"], other["pool"]["small_units"]["rounds"]["pool"][0]
    recall = {side: list(rates.values()) for side, rates in minhash["recall"].items()}
    peaks = [[in_all(sizes) for sizes in runs] for runs in growth["megabytes"]]
    rows = [
        ("stock chain, pages/s/core", f"{stock:.1f}", ""),
        ("exact chain", f"{exact:.1f}, {exact / stock:.1f}x; {identical} of {of} identical", "3x, all identical"),
        ("fast chain, start-up on all pages included", f"{fast:.1f}, {fast / stock:.1f}x", "12x"),
        ("MinHash, documents/s", f"{minhash['documents_per_second']['own']}, {minhash['ratio']}x", "12x"),
        ("its recall by similarity, ours and stock", f"{recall['own']} {recall['stock']}", "equal"),
        (
            "tokens to shards",
            f"{tokens['times_stock']['gigatoken']}x, equal: {all(tokens['ids_equal'].values())}",
            "20x",
        ),
        (
            "pool beyond the work of 1,000 units of 100 ms",
            f"{small['driver_and_actors']}%, {small['driver_and_actors'] + small['rest_of_ray']:.1f}% with all of Ray",
            "5%",
        ),
        ("a worker with every block", f"{in_all(results['every_block']['megabytes'])} MB with its sandbox", "700 MB"),
        ("twice the input", f"{whole / half:.2f}x the time, {peaks} MB", "1.9x to 2.1x, flat"),
    ]
    if "extraction" in other:
        scores = {method: other["extraction"]["unseen_half"]["all"][method]["f1"] for method in ("stock", "fast")}
        rows.append(("extraction F1, fast and trafilatura", f"{scores['fast']}, {scores['stock']}", "-0.01 at most"))
    for chain, projected in results["projection"].items():
        total = projected["core_hours"]["total"]
        rows.append((f"12T tokens, {chain}", f"{total:,} core-hours, {projected['dollars']:,} dollars", ""))
    return "\n".join(
        f"{name:45} {value:55} goal {goal}" if goal else f"{name:45} {value}" for name, value, goal in rows
    )


if __name__ == "__main__":
    main()
