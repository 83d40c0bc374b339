"""Valid files of every kind, ways to spoil them, and a judge of what the package makes of it.

What is read goes through public names and commands only. A verdict is `right` (the content is given
back as it stands), `refused` (one line that names the file or the key, and a remedy), or a word for
what must not be: `bare` (another exception, exit code 1), `wrong` (other content than the file's),
`allocated` (more memory than a small file can ask for), `hung`.
"""

import contextlib
import io
import json
import logging
import math
import random
import re
import resource
import shutil
import signal
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from helpers.formats import SHAPES, write_rows
from helpers.report_files import write_pages

from hf_proxy import Curve, InputError, load_soft_targets, load_traces
from hf_proxy.cli import main

OLD_FILES = Path(__file__).parent / "old_files"
ASSETS = Path(__file__).parent.parent / "recipes" / "assets"
GOOD = ("right", "refused")
MOST_MEMORY = 2**30  # bytes beyond what the process holds; one case here asks for two billion
MOST_SECONDS = 60
_TASK = ["--task", "arc_challenge", "--task_metric", "acc_norm,none"]
_JOIN = ["--predictions", "run/hf_proxy/predictions.jsonl", "--results", "results.csv", *_TASK]


class Wrong(Exception):
    """The reader gave something else than what the file says."""


@dataclass(frozen=True)
class Kind:
    """One kind of file.

    Attributes:
        files: of `old_files`, copied for each case.
        spoilt: those that are spoilt, one in each case; a pattern names several.
        read: what is done with the folder; raises, or gives nothing.
        home: whether `files` are made anew by the tree under test, by this function.
    """

    files: tuple[str, ...]
    spoilt: tuple[str, ...]
    read: Callable[[Path], None]
    home: Callable[[Path], None] | None = field(default=None)


# what is done with the files


def command(*argv: str) -> None:
    """Run a command; an exit code of 2 with its line counts as `InputError`."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main([*argv, "--json"])
    said = err.getvalue()
    if code == 2:
        lines = [line for line in said.splitlines() if line.startswith("hf-proxy: error: ")]
        if len(lines) != 1 or said.rstrip().splitlines()[-1] != lines[0]:
            raise RuntimeError(f"not one line: {said[-500:]}")
        raise InputError(lines[0].removeprefix("hf-proxy: error: "))
    if code:
        raise RuntimeError(said[-500:])
    json.loads(out.getvalue().splitlines()[-1], parse_constant=_no_constant)


def _no_constant(word: str) -> None:
    raise Wrong(f"{word} in the JSON line")


def _traces(name: str, **arguments: str) -> Callable[[Path], None]:
    def read(folder: Path) -> None:
        given = {key: str(folder / value) for key, value in arguments.items()}
        rows = load_traces(folder / name, **given).to_list()
        for row in rows:
            _check_trace(row)
        if name.endswith((".jsonl", ".json")):
            _compare_traces(rows, _parsed(folder / name), folder / Path(name).stem, arguments)

    return read


def _parsed(path: Path) -> list[dict[str, Any]]:
    data = path.read_bytes()
    if path.suffix == ".json":
        return json.loads(data)
    return [json.loads(line) for line in data.split(b"\n") if line.strip()]


def _make_shapes(folder: Path) -> None:
    """One answer of every server, and a set of ids with its texts."""
    rows = [row | {"example_id": f"{i}"} for i, (row, _) in enumerate(SHAPES.values())]
    write_rows(folder / "shapes.jsonl", rows)
    sample = {"sample_uuid": "u", "token_ids": [65, 66, 65], "logprobs": [-0.1, -0.2, -0.3]}
    write_rows(folder / "ids.jsonl", [sample, sample | {"sample_uuid": "v"}])
    beside = [{"uuid": name, "input": "q", "output": "aba"} for name in "uv"]
    write_rows(folder / "texts.jsonl", beside)
    masks = [{"question": "Q", "reasoning": f"a <span>b</span> {i}"} for i in range(3)]
    write_rows(folder / "masks.jsonl", masks)
    released = [{"example_id": i, "question": "q", "reasoning": "ok"} for i in range(2)]
    (folder / "set.json").write_text(json.dumps(released))
    tokens = [
        {"example_id": i, "position": p, "token": t, "logprob": -0.5}
        for i in range(2)
        for p, t in enumerate(('{"reasoning": "', "o", "k", '"}'))
    ]
    write_rows(folder / "set_logprobs.jsonl", tokens)


def _shapes(name: str, **arguments: str) -> Callable[[Path], None]:
    """Each trace keeps its promises, and its letters are those of its own source."""

    def read(folder: Path) -> None:
        given = {key: str(folder / value) for key, value in arguments.items()}
        if "tokenizer" in given:
            given["tokenizer"] = str(ASSETS / "expert")
        for row in load_traces(folder / name, **given).to_list():
            _check_trace(row)
            if not all(letter in _letters(folder) for letter in row["trace"]):
                raise Wrong(f"{row['trace']!r} holds a letter of no file")

    return read


def _letters(folder: Path) -> set[str]:
    """Every letter that a text of these files holds, or that escapes, ids and bytes may make."""
    files = [path.read_bytes() for path in folder.glob("*.json*")]
    spelt = set('\n\t\r\\"/\u00b2')
    for data in files:
        with contextlib.suppress(UnicodeDecodeError):
            spelt |= set(data.decode())
        for code in re.findall(rb"\\u([0-9a-fA-F]{4})", data):
            spelt.add(chr(int(code, 16)))
    return spelt | {chr(code) for code in range(32, 127)}


def _check_trace(row: dict[str, Any]) -> None:
    """The promises of a trace, told anew."""
    data = row["trace"].encode()
    if row["weighting"] == "none":
        ok = not row["frontier_spans"] and not row["frontier_logprobs"]
    else:
        ends = [0, *(end for _, end in row["frontier_spans"])]
        ok = row["weighting"] == "mask" or (
            ends[-1] == len(data)
            and [start for start, _ in row["frontier_spans"]] == ends[:-1]
            and len(row["frontier_logprobs"]) == len(ends) - 1
        )
        ok = ok and all(math.isfinite(p) and p <= 0 for p in row["frontier_logprobs"])
    if not (ok and data and row["example_id"]):
        raise Wrong(f"no trace: {row}")


def _compare_traces(rows, raw, folder, arguments) -> None:
    """Each row has its source, and says what that says."""
    by_id = {}
    for index, source in enumerate(raw):
        response = source.get("response")
        given = [source.get("example_id"), source.get("custom_id")]
        given += [response.get("id")] if isinstance(response, dict) else []
        given += [f"{folder.name}-{index}"] if response else []
        name = next((value for value in given if value is not None), None)
        by_id[str(index if name is None else name)] = source
    for row in rows:
        source = by_id[row["example_id"]]
        if "response" not in source:
            for key in ("prompt", "trace"):
                _same(row[key], source[key], key)
            _same(row["frontier_spans"], source.get("frontier_spans") or [], "frontier_spans")
            logprobs = source.get("frontier_logprobs") or []
            logprobs = [-9999.0 if p == -math.inf else p for p in logprobs]
            _same(row["frontier_logprobs"], logprobs, "frontier_logprobs")
            continue
        body = source["response"] if "custom_id" not in source else source["response"]["body"]
        (choice,) = body["choices"]
        content = choice["message"]["content"]
        spelt = b"".join(
            token["token"].encode() if token.get("bytes") is None else _bytes(token["bytes"])
            for token in choice["logprobs"]["content"]
        )
        if not spelt.startswith(content.encode(errors="surrogatepass")):
            raise Wrong(f"the tokens do not spell {content!r}")
        if row["trace"] not in (content, _reasoning(content)):
            raise Wrong(f"{row['trace']!r} is not of {content!r}")
        if isinstance(source.get("prompt"), str):
            _same(row["prompt"], source["prompt"], "prompt")


def _bytes(values: list[int]) -> bytes:
    if any(type(value) is not int for value in values):
        raise Wrong(f"{values} are no bytes")
    return bytes(values)


def _reasoning(content: str) -> Any:
    text = content.strip().removeprefix("```json").removeprefix("```")
    with contextlib.suppress(ValueError, KeyError, TypeError):
        return json.JSONDecoder(strict=False).raw_decode(text.strip())[0]["reasoning"]


def _same(found: Any, expected: Any, where: str) -> None:
    """Equal, and no truth value, text or fraction taken for a number."""
    if isinstance(expected, dict):
        for key in found if isinstance(found, dict) else ():
            if key in expected:
                _same(found[key], expected[key], f"{where}.{key}")
        same = isinstance(found, dict)
    elif isinstance(expected, list):
        same = isinstance(found, list) and len(found) == len(expected)
        for place, (a, b) in enumerate(zip(found, expected, strict=False) if same else ()):
            _same(a, b, f"{where}[{place}]")
    else:
        kinds = [
            "number"
            if isinstance(value, (int, float)) and not isinstance(value, bool)
            else type(value).__name__
            for value in (found, expected)
        ]
        same = kinds[0] == kinds[1] and found == expected
        if kinds == ["number", "number"] and isinstance(found, float) and abs(expected) < 1e300:
            same = found == float(expected)  # a number of JSON is the double nearest to it
    if not same:
        raise Wrong(f"{where}: {str(found)[:60]!r} where {str(expected)[:60]!r} stands")


def _curve(folder: Path) -> None:
    curve = Curve.load(folder / "curve.json")
    curve.save(folder / "again.json")
    again = json.loads((folder / "again.json").read_bytes())
    written = json.loads((folder / "curve.json").read_bytes())
    again.pop("form")
    _same(again, {key: written[key] for key in again if key in written}, "curve")
    for x in (0.1, 0.3, 2.0):
        found = curve.predict(x)
        if not 0 <= found.low <= found.high <= 1 or not 0 <= found.value <= 1:
            raise Wrong(f"{found} at {x}")


def _predict(folder: Path) -> None:
    command("predict", "--curves", str(folder / "curve.json"), "--scores", "0.3", "2")


def _predict_lines(folder: Path) -> None:
    lines = str(folder / "run/hf_proxy/predictions.jsonl")
    command("predict", "--curves", str(folder / "curve.json"), "--scores", lines)


def _at(folder: Path, arguments: list[str]) -> list[str]:
    return [str(folder / a) if (OLD_FILES / a).exists() else a for a in arguments]


def _fit(*arguments: str) -> Callable[[Path], None]:
    def read(folder: Path) -> None:
        out = ["--output_dir", str(folder / "out")]
        command("fit", *_at(folder, list(arguments)), *out)

    return read


def _rank(*arguments: str) -> Callable[[Path], None]:
    def read(folder: Path) -> None:
        command("rank", *_at(folder, list(arguments)))

    return read


def _report(name: str = "") -> Callable[[Path], None]:
    def read(folder: Path) -> None:
        command("report", str(folder / name), "--output", str(folder / "page.html"))

    return read


def _mined(whole: bool) -> Callable[[Path], None]:
    def read(folder: Path) -> None:
        rows = load_soft_targets(folder / "mined").to_list()
        if whole:
            expected = [
                row
                for shard in sorted((folder.parent / "base" / "mined" / "shards").glob("*.arrow"))
                for row in pa.ipc.open_stream(shard.read_bytes()).read_all().to_pylist()
            ]
            if rows != expected:
                raise Wrong("other rows than were mined")

    return read


def _mine(folder: Path) -> None:
    """A set as the tree under test writes it."""
    command(
        "contrast", "mine", "--expert", str(ASSETS / "expert"),
        "--amateur", str(ASSETS / "amateur"), "--prompts", str(ASSETS / "questions.jsonl"),
        *"--num_prompts 4 --batch_size 2 --max_new_tokens 8 --divergence_beta 0.02".split(),
        "--output_dir", str(folder / "mined"),
    )  # fmt: skip


def _go_on_mining(folder: Path) -> None:
    """The same mining over the spoilt folder: it goes on, or says why not."""
    _mine(folder)
    _mined(True)(folder)


def _show(folder: Path) -> None:
    expert = str(ASSETS / "expert")
    command("contrast", "show", "--source", str(folder / "mined"), "--tokenizer", expert)


def _accuracy(folder: Path) -> None:
    models = [str(ASSETS / name) for name in ("amateur", "expert")]
    command(
        "accuracy", "--models", *models, "--problems", str(ASSETS / "problems.jsonl"),
        *"--num_problems 4 --batch_size 2 --max_new_tokens 8 --question_column prompt".split(),
        "--output_dir", str(folder / "accuracy"),
    )  # fmt: skip


_SHARDS = tuple(f"mined/shards/{number:06d}.arrow" for number in range(2))
KINDS: dict[str, Kind] = {
    "traces.jsonl": Kind(("traces.jsonl",), ("traces.jsonl",), _traces("traces.jsonl")),
    "traces.json": Kind(("traces.json",), ("traces.json",), _traces("traces.json")),
    "traces.parquet": Kind(("traces.parquet",), ("traces.parquet",), _traces("traces.parquet")),
    "text.jsonl": Kind(("text.jsonl",), ("text.jsonl",), _traces("text.jsonl")),
    "saved set": Kind(
        ("traces",),
        ("traces/data-00000-of-00001.arrow", "traces/dataset_info.json", "traces/state.json"),
        _traces("traces"),
    ),
    "completions": Kind(
        ("completions.jsonl",), ("completions.jsonl",), _traces("completions.jsonl")
    ),
    "batch output": Kind(
        ("batch.jsonl", "requests.jsonl"),
        ("batch.jsonl", "requests.jsonl"),
        _traces("batch.jsonl", requests="requests.jsonl"),
    ),
    "shapes": Kind((), ("shapes.jsonl",), _shapes("shapes.jsonl"), _make_shapes),
    "ids": Kind(
        (),
        ("ids.jsonl", "texts.jsonl"),
        _shapes("ids.jsonl", texts="texts.jsonl", tokenizer=""),
        _make_shapes,
    ),
    "masks": Kind((), ("masks.jsonl",), _shapes("masks.jsonl"), _make_shapes),
    "released": Kind((), ("set.json", "set_logprobs.jsonl"), _shapes("set.json"), _make_shapes),
    "curve": Kind(("curve.json",), ("curve.json",), _curve),
    "curve, command": Kind(("curve.json",), ("curve.json",), _predict),
    "curve, report": Kind(("curve.json",), ("curve.json",), _report()),
    "predictions": Kind(
        ("run/hf_proxy/predictions.jsonl", "curve.json"),
        ("run/hf_proxy/predictions.jsonl",),
        _predict_lines,
    ),
    "predictions, fit": Kind(
        ("run/hf_proxy/predictions.jsonl", "results.csv", "results"),
        ("run/hf_proxy/predictions.jsonl",),
        _fit(*_JOIN),
    ),
    "predictions, report": Kind(
        ("run/hf_proxy/predictions.jsonl",), ("run/hf_proxy/predictions.jsonl",), _report("run")
    ),
    "contrast lines": Kind(
        ("run/hf_proxy/contrast.jsonl",), ("run/hf_proxy/contrast.jsonl",), _report("run")
    ),
    "trainer state": Kind(
        ("run/checkpoint-6",), ("run/checkpoint-6/trainer_state.json",), _report("run")
    ),
    "mined set": Kind(
        (), ("mined/mining.json", *_SHARDS, *(f"{s}.sha256" for s in _SHARDS)), _mined(True), _mine
    ),
    "mined set, older": Kind(("mined",), _SHARDS, _mined(False)),
    "mined set, mining": Kind((), ("mined/mining.json", *_SHARDS), _go_on_mining, _mine),
    "mined set, show": Kind(("mined",), ("mined/provenance.json", "mined/statistics.json"), _show),
    "mined set, report": Kind(
        ("mined",),
        ("mined/mining.json", "mined/statistics.json", "mined/provenance.json", *_SHARDS),
        _report("mined"),
    ),
    "points.csv": Kind(("points.csv",), ("points.csv",), _fit("--points", "points.csv")),
    "points.jsonl": Kind(("points.jsonl",), ("points.jsonl",), _fit("--points", "points.jsonl")),
    "results": Kind(
        ("run/hf_proxy/predictions.jsonl", "results.csv", "results"),
        ("results.csv", *(f"results/results_{i}.json" for i in (1, 4))),
        _fit(*_JOIN),
    ),
    "scores": Kind(
        ("scores/scores.jsonl",), ("scores/scores.jsonl",), _rank("--scores", "scores/scores.jsonl")
    ),
    "scores, report": Kind(("scores",), ("scores/scores.jsonl",), _report("scores")),
    "tables": Kind(
        ("scores/scores.jsonl", "target.csv", "compute.csv"),
        ("target.csv", "compute.csv"),
        _rank(
            "--scores", "scores/scores.jsonl", "--target", "target.csv", "--compute", "compute.csv"
        ),  # fmt: skip
    ),
    "ranking": Kind(("ranking",), ("ranking/ranking.json",), _report("ranking")),
    "accuracy": Kind(
        ("accuracy",), ("accuracy/results.json", "accuracy/items.jsonl"), _report("accuracy")
    ),
    "answers": Kind(
        ("accuracy/generations",), ("accuracy/generations/*/round-000/*.json",), _accuracy
    ),
    "benchmark": Kind(("benchmark.json",), ("benchmark.json",), _report()),
    "page of a run": Kind(
        (),
        ("paired/hf_proxy/predictions.jsonl", "paired/run.json"),
        _report("paired"),
        write_pages,
    ),
    "page of a forecast": Kind((), ("ahead/predictions.jsonl",), _report("ahead"), write_pages),
    "page of a selection": Kind((), ("selected/ranking.json",), _report("selected"), write_pages),
    "page of a tuned model": Kind((), ("tuned/provenance.json",), _report("tuned"), write_pages),
    "page of a benchmark": Kind((), ("drawn/mine.json",), _report("drawn"), write_pages),
    "saved set, report": Kind(
        ("traces",), ("traces/provenance.json", "traces/dataset_info.json"), _report("traces")
    ),
    "provenance": Kind(
        ("run/provenance.json", "scores"),
        ("run/provenance.json", "scores/provenance.json"),
        _report(),
    ),
}


# how they are spoilt


VALUES: tuple[Any, ...] = (
    None, True, False, "", "x", "12", "nan", " ", "\ud800", "\u0000", "\u2028", "a" * 5000, [], {},
    [None], [[]], {"a": 1}, 0, 1, -1, 2, 3, 255, 256, -128, 0.5, -0.5, 1.5, 2**31, 2**53 + 1, 2**63,
    -(2**63), 10**30, 10**400, 1e308, -1e308, 5e-324, math.nan, math.inf, -math.inf, 2_000_000_000,
    [2_000_000_000], [0] * 100, [1e308, -1e308], "2000000000", "1e400", "../../x", "<script>",
    "$\\frac$",
)  # fmt: skip
NUMBERS = (
    "1e999", "-1e999", "1e-400", "01", "+1", "0x10", "1_000", "NaN", "Infinity", "-", "1.", "1e5",
    "2000000000", "-2000000000", "99999999999999999999", "-0.0", "9" * 5000,
)  # fmt: skip


def _paths(value: Any, at: tuple = ()) -> Iterator[tuple]:
    inside: Any = ()
    if isinstance(value, dict):
        inside = value.items()
    elif isinstance(value, list):
        inside = enumerate(value)
    for key, below in inside:
        yield (*at, key)
        yield from _paths(below, (*at, key))


def _spoil_value(content: Any, rng: random.Random) -> None:
    """Change one thing in parsed JSON, in place."""
    paths = list(_paths(content))
    if not paths:
        return
    # a long list of numbers must not be all that is ever met
    depth = rng.choice(sorted({len(path) for path in paths}))
    path = rng.choice([path for path in paths if len(path) == depth])
    home = content
    for key in path[:-1]:
        home = home[key]
    key, value = path[-1], home[path[-1]]
    way = rng.randrange(8)
    if way == 0:
        del home[key]
    elif way == 1 and isinstance(home, dict):
        home[rng.choice(("", "extra", str(key) + " ", str(key).upper()))] = home.pop(key)
    elif way == 1:
        home.insert(key, value)
    elif way == 2:
        wraps: tuple[Callable, ...] = (lambda v: [v], lambda v: {"a": v}, lambda v: [v, v], str)
        home[key] = rng.choice(wraps)(value)
    elif way == 3:
        nested: Any = value
        for _ in range(rng.choice((3, 50, 300))):
            nested = [nested] if rng.random() < 0.5 else {"a": nested}
        home[key] = nested
    elif way == 4 and isinstance(value, (int, float)) and not isinstance(value, bool):
        home[key] = rng.choice((-value, value + 1, value - 1, value * 1e9, value + 0.5, int(value)))
    elif way == 4 and isinstance(value, list):
        rng.shuffle(value)
    elif way == 4 and isinstance(value, str):
        home[key] = value[: len(value) // 2] + rng.choice(("\ud83d", "²", "\n", "\x00", "{")) + "x"
    else:
        home[key] = rng.choice(VALUES)


def _spoil_text(data: bytes, rng: random.Random) -> bytes:
    """Change the text of a JSON or CSV file."""
    way = rng.randrange(8)
    if way == 0:
        keys = list(re.finditer(rb'"(\w+)": ', data))
        if keys:
            found = rng.choice(keys)
            other = json.dumps(rng.choice(VALUES)).encode()
            return data[: found.start()] + found[0] + other + b", " + data[found.start() :]
    if way in (1, 2):
        numbers = list(re.finditer(rb"(?<![\w.])-?\d+(\.\d+)?(e[+-]?\d+)?(?![\w.])", data))
        if numbers:
            found = rng.choice(numbers)
            return data[: found.start()] + rng.choice(NUMBERS).encode() + data[found.end() :]
    if way == 3:
        return rng.choice((b"\xef\xbb\xbf", b"\xff\xfe", b"\n\n", b"\x00", b" ", b"[", b"{")) + data
    if way == 4:
        codes = ("utf-16", "utf-32", "utf-16-be")
        return data.decode(errors="replace").encode(rng.choice(codes), errors="replace")
    lines = data.split(b"\n")
    place = rng.randrange(len(lines))
    if way == 5:
        odd = (b"", b" ", b"\r", b"null", b"[]", b"{}", b"1", b'"a"', b"\xc3", lines[place])
        lines.insert(place, rng.choice(odd))
    elif way == 6 and len(lines) > 1:
        del lines[place]
    else:
        depth = rng.choice((500, 100_000))
        lines[place] = b"[" * depth + b"]" * depth
    return b"\n".join(lines)


def _spoil_bytes(data: bytes, rng: random.Random) -> bytes:
    way = rng.randrange(6)
    if not data or way == 0:
        return data[: rng.randrange(len(data) + 1)]
    changed = bytearray(data)
    if way == 1:
        start = rng.randrange(len(data))
        del changed[start : start + rng.choice((1, 8, 64))]
    elif way == 2:
        start = rng.randrange(len(data))
        changed[start:start] = rng.randbytes(rng.choice((1, 8, 64)))
    elif way == 3:
        start = rng.randrange(len(data))
        size = min(rng.choice((4, 8, 64)), len(data) - start)
        changed[start : start + size] = rng.choice((b"\x00", b"\xff")) * size
    else:
        for _ in range(rng.choice((1, 1, 4))):
            changed[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _spoil_columns(table: pa.Table, rng: random.Random) -> pa.Table:
    """Change the rows or the types of a table."""
    way, place = rng.randrange(5), rng.randrange(table.num_columns)
    name = table.column_names[place]
    if way == 0:
        return table.drop_columns([name])
    if way == 1:
        return table.rename_columns([n if n != name else rng.choice(table.column_names + ["", "x"])
                                     for n in table.column_names])  # fmt: skip
    if way == 2:
        length = len(table)
        others = (pa.nulls(length), pa.array([b"\xff"] * length), pa.array([1.5] * length),
                  pa.array([True] * length), pa.array([[None]] * length), pa.array(["x"] * length),
                  pa.array([{"a": 1}] * length), pa.array([[2_000_000_000]] * length),
                  pa.array([-1] * length), pa.array([[math.nan]] * length))  # fmt: skip
        return table.set_column(place, name, rng.choice(others))
    if way == 3:
        return table.slice(rng.randrange(len(table) + 1))
    rows = table.to_pylist()
    _spoil_value(rows, rng)
    return pa.Table.from_pylist(rows, schema=table.schema if rng.random() < 0.5 else None)


def spoil(path: Path, rng: random.Random) -> None:
    """Spoil one file, seldom in several ways at once."""
    for _ in range(rng.choice((1, 1, 1, 1, 2, 3))):
        data = path.read_bytes()
        is_table = path.suffix in (".arrow", ".parquet")
        way = rng.random()
        if is_table and way < 0.5:
            with contextlib.suppress(pa.ArrowException, TypeError, KeyError, AttributeError,
                                     ValueError, OverflowError, OSError):  # fmt: skip
                _respell(path, rng)
        elif is_table or way < 0.15:
            path.write_bytes(_spoil_bytes(data, rng))
        elif way < 0.4 or path.suffix in (".csv", ".sha256"):
            path.write_bytes(_spoil_text(data, rng))
        else:
            path.write_bytes(_spoil_json(data, path.suffix == ".jsonl", rng))


def _respell(path: Path, rng: random.Random) -> None:
    if path.suffix == ".parquet":
        pq.write_table(_spoil_columns(pq.read_table(path), rng), path)
        return
    table = _spoil_columns(pa.ipc.open_stream(path.read_bytes()).read_all(), rng)
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table)


def _spoil_json(data: bytes, by_line: bool, rng: random.Random) -> bytes:
    try:
        lines = data.rstrip(b"\n").split(b"\n") if by_line else [data]
        place = rng.randrange(len(lines))
        content = [json.loads(lines[place])]
        _spoil_value(content, rng)
        lines[place] = json.dumps(content[0] if content else None).encode()
        return b"\n".join(lines) + b"\n" * by_line
    except (ValueError, RecursionError):  # it was spoilt before
        return _spoil_bytes(data, rng)


# the judge


def prepare(kind: Kind, folder: Path) -> None:
    """Valid files of a kind, from which each case is copied, in `folder/base`."""
    base = folder / "base"
    for name in kind.files:
        (base / name).parent.mkdir(parents=True, exist_ok=True)
        copy = shutil.copytree if (OLD_FILES / name).is_dir() else shutil.copy
        copy(OLD_FILES / name, base / name)
    if kind.home is not None:
        base.mkdir(parents=True, exist_ok=True)
        kind.home(base)


def judge(kind: Kind, folder: Path, seed: str) -> tuple[str, str]:
    """Spoil one file of a copy of `folder/base` and read it: a verdict, and what was said."""
    rng = random.Random(seed)
    case = folder / "case"
    shutil.rmtree(case, ignore_errors=True)
    shutil.copytree(folder / "base", case)
    found = sorted(path for pattern in kind.spoilt for path in case.glob(pattern))
    spoil(rng.choice(found), rng)
    return judged(kind, case)


def judged(kind: Kind, case: Path) -> tuple[str, str]:
    """Read a folder as it stands: a verdict, and what was said."""
    try:
        with limited(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            logging.disable(logging.WARNING)
            try:
                kind.read(case)
            finally:
                logging.disable(logging.NOTSET)
    except InputError as error:
        line = str(error)
        names = [path.name for path in case.rglob("*")] + ["field ", str(case)]
        if "\n" in line or ";" not in line or not any(name in line for name in names):
            return "bare", f"no line of ours: {line}"
        return "refused", line
    except MemoryError as error:
        return "allocated", repr(error)
    except TimeoutError as error:
        return "hung", str(error)
    except Wrong as error:
        return "wrong", str(error)
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        return "bare", f"{type(error).__name__}: {error}"[:500]
    return "right", ""


@contextlib.contextmanager
def limited() -> Iterator[None]:
    """Bound memory and time of what is read."""

    def late(*_: Any) -> None:
        raise TimeoutError(f"more than {MOST_SECONDS} s")

    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MOST_MEMORY, hard))
    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(MOST_SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
