"""The benchmarks run, on models so small that their numbers mean nothing, and fill their JSON."""

import importlib.util
import json
import random
import re
from pathlib import Path

import pytest
from helpers.models import sharp_pair
from helpers.traces import make_traces

from hf_proxy.report.page import write_report

FOLDER = Path(__file__).parent / "benchmarks"
MACRO = "olmes_10_macro_avg"


@pytest.fixture(scope="module")
def inputs(tmp_path_factory, tokenizer):
    """Two models with their tokenizer, traces, prompts."""
    folder = tmp_path_factory.mktemp("inputs")
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}\n{% endfor %}"
    for name, model in zip(("expert", "amateur"), sharp_pair(len(tokenizer)), strict=True):
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    tokenizer.chat_template = None
    make_traces(5).save_to_disk(folder / "traces")
    rows = [{"question": f"How much is {i} and 2?", "answer": str(i + 2)} for i in range(8)]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "rows.jsonl").write_text(text)
    (folder / "corpora.csv").write_text("\n".join(corpora_rows()))
    (folder / "ladder.csv").write_text("\n".join(ladder_rows()))
    (folder / "law.csv").write_text("\n".join(law_rows()))
    return folder


def corpora_rows():
    """The shape of DataDecide's table: six corpora, three sizes, three seeds, one task."""
    yield "corpus,size,parameters,tokens,seed,task,metric,value"
    rng = random.Random(0)
    for corpus in range(6):
        for size, parameters in (("4M", 4e6), ("6M", 6e6), ("1B", 1e9)):
            for seed in ("default", "aux 2", "aux 3"):
                nll = corpus + rng.gauss(0, 0.5)
                of = f"c{corpus},{size},{parameters},{parameters * 100},{seed}"
                yield f"{of},{MACRO},nll_per_char,{nll}"
        for seed in ("default", "mean of 3"):
            accuracy = 1 - (corpus + rng.gauss(0, 0.1)) / 10
            yield f"c{corpus},1B,1e9,1e11,{seed},{MACRO},accuracy,{accuracy}"


def law_rows():
    """The shape of the OLMo ladder: last checkpoints of three sizes and two targets, one task."""
    yield "run,size,tokens,task,bits_per_byte,accuracy"
    runs = [(f"{size}M-{k}xC", size * 1e6, k) for size in (190, 370, 760) for k in (1, 2, 5, 10)]
    for run_name, size, multiple in [*runs, ("7B", 7e9, 20), ("13B", 13e9, 20)]:
        tokens = 20 * size * multiple
        bits = 0.4 + 80 / size**0.3 + 100 / tokens**0.3
        accuracy = 0.25 + 0.7 / (1 + 2.7 ** (6 * (bits - 0.8)))
        yield f"{run_name},{run_name.split('-')[0]},{tokens},a_task,{bits},{accuracy}"


def ladder_rows():
    """The shape of the ladder's table: a small run and a large one, one task."""
    yield "run,size,tokens,task,bits_per_byte,accuracy"
    rng = random.Random(0)
    for name, size in (("1B-1xC", "1B"), ("7B", "7B")):
        for step in range(1, 81):
            bits = 0.8 + step**-0.5 + rng.gauss(0, 0.01)
            accuracy = 0.9 - 0.3 * bits + rng.gauss(0, 0.01)
            yield f"{name},{size},{1e9 * step},task,{bits},{accuracy}"


def run(name, arguments, monkeypatch):
    """The benchmark's own main in this process; the module, for what a case replaces."""
    monkeypatch.syspath_prepend(FOLDER)
    monkeypatch.setattr("sys.argv", [name, *map(str, arguments)])
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if name == "contrast":  # measured in a process of its own each, which takes long to start
        peak = {"peak_bytes": 0, "num_tokens": 7, "vocabulary": 300}
        module.memory_in_subprocess = lambda args, way: peak
    module.main()


CASES = {
    "scoring": "--models {0}/expert --traces {0}/traces --lm_eval_batch_sizes --no_memory "
    "--repeats 1 --num_traces 3",
    "callback": "--model {0}/expert --traces {0}/traces --train_data {0}/rows.jsonl --max_steps 2 "
    "--eval_steps 1 --num_traces 3 --repeats 1",
    "contrast": "--expert {0}/expert --amateur {0}/amateur --prompts {0}/rows.jsonl "
    "--prompt_column question --num_prompts 3 --max_new_tokens 4 --repeats 1 --prefix_prompts 1",
    "foretelling": "--expert {0}/expert --amateur {0}/amateur --prompts {0}/rows.jsonl "
    "--prompt_column question --num_prompts 3 --max_new_tokens 4 --repeats 1",
    "label_statistics": "--num_traces 2 --vocabulary 500 --no_memory --repeats 1",
    "datadecide": "--data {0}/corpora.csv",
    "public_tables": "--datadecide {0}/corpora.csv --ladder {0}/law.csv",
    "corpora_power": "--num_worlds 1 --num_draws 20",
    "chance": "--num_models 9 --num_tasks 2 --num_columns 2 --worlds 1",
    "coverage": "--draws 1",
    "forecasting": "--data {0}/ladder.csv --draws 1",
    "start": "--rounds 1",
}
BARS = {"scoring": 1, "callback": 0, "contrast": 4, "foretelling": 1, "coverage": 0, "start": 1}
BARS |= {"label_statistics": 1, "datadecide": 0, "chance": 0, "forecasting": 0}
BARS |= {"public_tables": 0, "corpora_power": 0}


@pytest.mark.parametrize("name", CASES)
def test_a_benchmark_runs_and_its_file_can_be_shown(name, inputs, tmp_path, monkeypatch, capsys):
    arguments = [word.format(inputs) for word in CASES[name].split()]
    path = tmp_path / "run" / f"{name}.json"
    run(name, [*arguments, "--output", path], monkeypatch)
    assert f"written to {path}" in capsys.readouterr().out
    content = json.loads(path.read_text())
    assert content["benchmark"] == name and content["settings"] and content["tables"]
    assert len(content["bars"]) == BARS[name]
    assert str(inputs) not in path.read_text()  # no folders of a machine
    write_report(path.parent, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    for table in content["tables"]:
        assert table["caption"] in page


def test_committed_results_can_be_shown_and_name_no_folder(tmp_path):
    found = write_report(FOLDER / "results", tmp_path / "page.html")
    files = sorted(path.name for path in (FOLDER / "results").iterdir())
    assert found["sections"] == ["benchmarks"] and found["files"] == files
    for name in files:
        assert not re.search(r"/(home|root|work|tmp)/", (FOLDER / "results" / name).read_text())
