"""What the READMEs claim to run, runs; with the bundled tiny models in place of real ones."""

import json
import random
import re
import shlex
from itertools import islice
from pathlib import Path

import pytest

from hf_proxy.cli import COMMANDS, main
from hf_proxy.recipes.library.carry_chains import problems

ROOT = Path(__file__).parent.parent
METRICS = [str(path.parent.relative_to(ROOT)) for path in ROOT.glob("hf_proxy/metrics/*/*.py")]
FOLDERS = (".", "callbacks", "recipes", "tests/benchmarks", *sorted(METRICS))
TEXTS = {str(Path(name) / "README.md"): (ROOT / name / "README.md").read_text() for name in FOLDERS}
README = TEXTS["README.md"]
MAX_LINES, MAX_COLUMNS, SCREEN = 250, 120, 50

# what stands in a README for a user's own, and what it is here
STAND_INS = {
    "Qwen/Qwen2.5-Coder-1.5B-Instruct": "recipes/assets/expert",
    "Qwen/Qwen2.5-Coder-0.5B-Instruct": "recipes/assets/amateur",
    "gsm8k-annotated": "recipes/assets/traces.parquet",
    "gsm8k_train.jsonl": "questions.jsonl",
    "max_length=512": "max_steps=2, bf16=False, report_to='none', dataloader_pin_memory=False",
}


def blocks(text, language):
    """The code blocks of one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)


@pytest.fixture
def users_folder(tmp_path, monkeypatch):
    """A folder with what a user has: a checkout's recipes, questions with worked answers."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    rows = problems(random.Random(0))
    pairs = [{"question": row["prompt"], "answer": row["trace"]} for row in islice(rows, 40)]
    (tmp_path / "questions.jsonl").write_text("\n".join(map(json.dumps, pairs)))


@pytest.mark.parametrize("name", [name for name, text in TEXTS.items() if blocks(text, "python")])
def test_snippets_run(name, users_folder, capsys):
    for snippet in blocks(TEXTS[name], "python"):
        code = snippet
        for theirs, ours in STAND_INS.items():
            code = code.replace(theirs, ours)
        exec(code, {})
        expected = "\n".join(re.findall(r"^# (.*)$", snippet, flags=re.MULTILINE))
        lines = capsys.readouterr().out.strip().splitlines()
        said = "\n".join(line for line in lines if not line.startswith("{"))  # Trainer's log
        # with other models numbers differ; all others must be as printed
        digits = re.compile(r"\d+\.\d+" if code != snippet else "(?!)")
        assert digits.sub("x", said) == digits.sub("x", expected)


def imports_of(text):
    """Modules and names of the package that the snippets import."""
    found = re.findall(
        r"^from (hf_proxy[\w.]*) import (.+)$", "\n".join(blocks(text, "python")), re.M
    )
    return [(module, name.strip()) for module, names in found for name in names.split(",")]


def test_snippets_use_public_names_only():
    import hf_proxy
    import hf_proxy.callbacks

    public = {"hf_proxy": hf_proxy.__all__, "hf_proxy.callbacks": hf_proxy.callbacks.__all__}
    for name, text in TEXTS.items():
        for module, imported in imports_of(text):
            assert imported in public.get(module, ()), f"{name}: {module}.{imported}"
    assert imports_of("```python\nfrom hf_proxy.x import y, z\n```") == [
        ("hf_proxy.x", "y"),
        ("hf_proxy.x", "z"),
    ]


def commands_of(text):
    """The command lines of the bash blocks, each as its words."""
    lines = "\n".join(blocks(text, "bash")).replace("\\\n", " ").splitlines()
    return [words for words in (shlex.split(line, comments=True) for line in lines) if words]


@pytest.fixture(scope="module")
def flags_of():
    """What `--help_all` or `--help` of a command lists, asked once."""
    found = {}

    def ask(command, capsys):
        if command not in found:
            every = "--help_all" if command[0] in ("finetune", "train", "loop") else "--help"
            try:
                main([*command, every])
            except SystemExit:
                pass
            found[command] = set(re.findall(r"--\w+", capsys.readouterr().out))
        return found[command]

    return ask


def unknown_flags(words, flags_of, capsys):
    """Flags of one `hf-proxy` line that its command does not have."""
    command = tuple(words[1 : 3 if words[1] in ("traces", "contrast") else 2])
    known = flags_of(command, capsys)
    assert known, f"{command} gives no help"
    return {word for word in words if word.startswith("--")} - known


def test_commands_name_flags_that_exist(flags_of, capsys):
    lines = [words for text in TEXTS.values() for words in commands_of(text)]
    ours = [words for words in lines if words[0] == "hf-proxy"]
    assert len(ours) > 8
    for words in ours:
        assert not unknown_flags(words, flags_of, capsys), words
    wrong = shlex.split("hf-proxy predict --curve a.json --scores 0.5")
    assert unknown_flags(wrong, flags_of, capsys) == {"--curve"}


def test_commands_name_files_and_scripts_flags_that_exist():
    lines = [words for text in TEXTS.values() for words in commands_of(text)]
    files = [word for words in lines for word in words if word.startswith(("recipes/", "tests/"))]
    assert files
    for name in files:
        assert (ROOT / name).exists(), name
    scripts = [words for words in lines if words[0] == "python"]
    assert len(scripts) > 5
    for _, script, *words in scripts:
        source = (ROOT / script).read_text()
        for flag in (word for word in words if word.startswith("--")):
            assert f'"{flag}"' in source, f"{script} has no {flag}"


def targets_of(text):
    """Relative links of a text: path and heading."""
    found = re.findall(r"\]\(([^)\s]+)\)", text)
    return [link.partition("#")[::2] for link in found if "://" not in link]


def anchors_of(text):
    """What a link to a heading is called, as GitHub does it."""
    prose = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    heads = re.findall(r"^#+ (.*)$", prose, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


def dead_links(path, text):
    """Links of the text that lead to no file or no heading."""
    dead = []
    for target, anchor in targets_of(text):
        file = (path.parent / target).resolve() if target else path
        there = file.is_file() and (not anchor or anchor in anchors_of(file.read_text()))
        if not there:
            dead.append(f"{target}#{anchor}")
    return dead


def test_links_lead_somewhere():
    assert sum(len(targets_of(text)) for text in TEXTS.values()) > 12
    for name, text in TEXTS.items():
        assert dead_links(ROOT / name, text) == [], name
    wrong = "[a](nowhere.md) [b](README.md#no-such-heading) [c](#measured)"
    assert dead_links(ROOT / "README.md", wrong) == ["nowhere.md#", "README.md#no-such-heading"]


def test_every_readme_is_reached_from_the_first():
    linked = {str((ROOT / target).resolve().relative_to(ROOT)) for target, _ in targets_of(README)}
    linked |= {
        str((ROOT / name).parent.joinpath(target).resolve().relative_to(ROOT))
        for name in linked & set(TEXTS)
        for target, _ in targets_of(TEXTS[name])
    }
    assert set(TEXTS) <= linked | {"README.md"}


def too_long(text):
    """Lines that a screen of 120 columns breaks."""
    return [line for line in text.splitlines() if len(line) > MAX_COLUMNS]


def test_length():
    assert len(README.splitlines()) <= MAX_LINES
    for name, text in TEXTS.items():
        assert too_long(text) == [], name
    assert too_long("a" * 121) and not too_long("a" * 120)


def test_the_table_of_benchmarks_is_what_they_measured(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parent / "benchmarks")
    from table import RESULTS, table_of, with_table

    table, text = table_of(RESULTS), TEXTS["tests/benchmarks/README.md"]
    assert with_table(text, table) == text, "run: python tests/benchmarks/table.py"
    assert len(table.splitlines()) > 2
    # README says some of them in words
    said = re.findall(r"\d\.\d{1,4}", re.search(r"^Speed, .*?\n\n", README, re.M | re.S)[0])
    said = [number for number in said if number not in ("2.5", "0.5")]  # of a model's name
    assert len(said) == 6 and all(f"| {number} times " in table for number in said)
    # a number altered there shows
    number = re.search(r"\d\.\d+", table)[0]
    altered = text.replace(table, table.replace(number, "7.7", 1))
    assert altered != text == with_table(altered, table)


def test_tables_of_the_benchmarks_readme_are_those_of_their_files(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parent / "benchmarks")
    from table import BLOCK, RESULTS, with_results

    text = TEXTS["tests/benchmarks/README.md"]
    assert len(BLOCK.findall(text)) >= 4
    assert with_results(text, RESULTS) == text, "run: python tests/benchmarks/table.py"
    # two without rows, and what stands between them
    head, end = "<!-- table 2 of coverage.json: n -->\n\n", "<!-- end of what it writes -->\n"
    filled = with_results(f"{head}{end}between\n{head}\n{end}", RESULTS)
    assert filled.count("between\n") == 1 and filled.count("| n |") == filled.count(end) == 2
    assert with_results(filled, RESULTS) == filled
    number = re.search(r"<!-- table .*?\| (\d\.\d+) \|", text, re.DOTALL)
    altered = text[: number.start(1)] + "7.7" + text[number.end(1) :]
    assert with_results(altered, RESULTS) == text


def test_the_table_follows_each_number(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parent / "benchmarks")
    from table import MARKERS, table_of, with_table

    def written(date="2026-01-02T03:04:05", **changes):
        bar = {"what": "speed", "measured": 0.97, "rule": "at least", "bar": 0.9, "unit": "times"}
        bar |= {"met": True, "model": "m"} | changes
        content = {"date": date, "bars": [bar, bar | {"what": "memory"}]}
        (tmp_path / "speed.json").write_text(json.dumps(content))
        return table_of(tmp_path)

    assert written().splitlines()[2:] == [
        "| **m**, 2026-01-02 | | | |",
        "| speed | 0.97 times | >= 0.9 | met |",
        "| memory | 0.97 times | >= 0.9 | met |",
    ]
    missed = {"measured": 0.8, "met": False}
    later = {"date": "2026-01-03T03:04:05"}
    for change in ({"measured": 0.971}, {"bar": 0.91}, {"model": "n"}, later, missed):
        assert written(**change) != written()
    assert "| >= 0.9 | NOT met |" in written(**missed)
    for change in ({"met": False}, {"measured": 0.8}, {"bar": 1}):
        with pytest.raises(ValueError, match="is not what it measured"):
            written(**change)
    text = "before\n" + "".join(MARKERS) + "after\n"
    once = with_table(text, written())
    assert written() in once and with_table(once, written()) == once
    with pytest.raises(ValueError, match="once each"):
        with_table("before\nafter\n", "")


def test_commands_recipes_and_benchmarks_are_all_named():
    for command in COMMANDS:
        assert f"hf-proxy {command}" in README
    for path in (ROOT / "recipes").glob("*.yaml"):
        if not path.name.startswith(("accelerate_", "train_selective_sft_paper")):
            assert f"`{path.stem}`" in TEXTS["recipes/README.md"], path.stem
    for path in (ROOT / "tests" / "benchmarks").glob("*.py"):
        if path.name not in ("results.py", "table.py"):
            assert path.name in TEXTS["tests/benchmarks/README.md"], path.name


def test_the_first_screen_holds_the_essentials():
    screen = "\n".join(README.splitlines()[:SCREEN])
    words = ("rBridge", "make demo", "pip install", "score_traces", "Curve.load", "nats per token")
    printed = ("# rBridge 0.", "# the larger model: 0.")  # the score and the prediction
    for word in (*words, *printed):
        assert word in screen, word


def test_how_to_build_and_test_is_said():
    for target in ("make demo", "make test", "make check"):
        assert target in README
        assert re.search(rf"^{target.split()[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


def demo_table(text):
    """The demo's table in README: source to what was foretold and the accuracies, in percent."""
    rows = re.findall(r"^\| (\w+), \d+ % sloppy \| (.*) \|$", text, flags=re.MULTILINE)
    return {source: [cell.strip() for cell in cells.split("|")] for source, cells in rows}


@pytest.mark.long  # a minute and a half
def test_the_demo_gives_what_readme_shows(tmp_path, capsys):
    assert main(["demo", "--json", "--output_dir", str(tmp_path / "demo")]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    shown = demo_table(README)
    sources = dict.fromkeys(row["source"] for row in found["rows"])
    assert list(shown) == list(sources)
    for source, cells in shown.items():
        told, *reached = (row for row in found["rows"] if row["source"] == source)
        verdict, gain = cells[0].split(", ")
        assert verdict == told["verdict"]
        assert float(gain) == pytest.approx(100 * told["gain"], abs=2)  # processors round otherwise
        said = [float(cell.removesuffix(" %")) for cell in cells[1:] if cell != "-"]
        assert said == pytest.approx([100 * row["accuracy"] for row in reached], abs=2)
