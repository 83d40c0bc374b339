"""What a newcomer reads and mistypes: help that says it all, and one line for each mistake."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys

import pytest
from datasets import DatasetDict
from helpers.models import make_model
from helpers.processes import ROOT, command
from helpers.traces import make_traces
from trl import ModelConfig, SFTConfig

from hf_proxy.cli import COMMANDS
from hf_proxy.recipes import mine_soft_targets, traces
from hf_proxy.recipes.closed_loop import LoopConfig
from hf_proxy.recipes.demo import DemoConfig
from hf_proxy.recipes.evaluate_accuracy import AccuracyConfig
from hf_proxy.recipes.finetune_with_proxy import FinetuneConfig
from hf_proxy.recipes.fit_predictor import FitConfig
from hf_proxy.recipes.library.flags import RecipeParser
from hf_proxy.recipes.library.running import RecipeConfig, run
from hf_proxy.recipes.predict_accuracy import PredictConfig
from hf_proxy.recipes.rank_models import RankConfig
from hf_proxy.recipes.report import ReportConfig
from hf_proxy.recipes.score_checkpoints import ScoreConfig
from hf_proxy.recipes.train_selective_sft import TrainConfig
from hf_proxy.records.errors import InputError
from hf_proxy.records.storage import save_dataset, write_text
from hf_proxy.training.config import SelectiveSFTConfig

CLASSES = {
    "score": (ScoreConfig,),
    "finetune": (FinetuneConfig, SFTConfig, ModelConfig),
    "train": (TrainConfig, SelectiveSFTConfig, ModelConfig),
    "loop": (LoopConfig, SelectiveSFTConfig, ModelConfig),
    "accuracy": (AccuracyConfig,),
    "report": (ReportConfig,),
    "demo": (DemoConfig,),
    **{f"traces {name}": (config,) for name, (config, _) in traces.ACTIONS.items()},
    **{f"contrast {name}": (config,) for name, (config, _) in mine_soft_targets.ACTIONS.items()},
    "fit": (FitConfig,),
    "predict": (PredictConfig,),
    "rank": (RankConfig,),
}
TRAINING = ("finetune", "train", "loop")


@pytest.fixture
def folder(tmp_path, tokenizer, monkeypatch):
    """Something of everything that a command could be given by mistake."""
    make_model("llama", len(tokenizer)).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    for name, file, content in (
        ("cut", "model.safetensors", "cut"),
        ("torn", "config.json", "{nope"),
        ("unknown", "config.json", "{}"),
    ):
        shutil.copytree(tmp_path / "model", tmp_path / name)
        (tmp_path / name / file).write_text(content)
    make_model("llama", len(tokenizer)).save_pretrained(tmp_path / "bare")
    make_traces(3).to_json(str(tmp_path / "traces.jsonl"))
    rows = [{"prompt": f"{n}+1?", "trace": str(n + 1)} for n in range(3)]
    for name, content in (
        ("rows.jsonl", "".join(json.dumps(row) + "\n" for row in rows)),
        ("bad.jsonl", json.dumps(rows[0]) + '\n{"prompt": \n'),
        ("number.jsonl", '{"prompt": 3, "trace": "b"}\n'),
        ("qa.jsonl", '{"question": "1+1?", "answer": "2"}\n'),
        ("empty.jsonl", ""),
        ("empty.csv", ""),
        ("torn.parquet", "PAR"),
        ("text.txt", "hello"),
        ("points.csv", "run,tokens,score,target,target_accuracy\n" + "a,1,0.8,big,0.3\n"),
        ("list.yaml", "- models\n"),
        ("empty.yaml", ""),
        ("torn.yaml", "a: [1\nb: }"),
        ("key.yaml", "models: [model]\ntraces: traces.jsonl\nnum_trace: 3\n"),
        ("word.yaml", "models: [model]\ntraces: traces.jsonl\nnum_traces: abc\n"),
        ("half.yaml", "models: [model]\ntraces: traces.jsonl\nnum_traces: 2.5\n"),
        ("choice.yaml", "models: [model]\ntraces: traces.jsonl\nunit: bytes\n"),
        ("null.yaml", "models:\ntraces: traces.jsonl\n"),
        ("several.yaml", "models: [model]\ntraces: [a, b]\n"),
        ("alone.yaml", "models: model\ntraces: traces.jsonl\n"),
    ):
        (tmp_path / name).write_text(content)
    (tmp_path / "latin.jsonl").write_bytes(b'{"prompt": "\xff", "trace": "b"}\n')
    (tmp_path / "latin.csv").write_bytes(b"run,tokens\n\xff,1\n")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "precious.txt").write_text("keep me")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def helped(capsys, name, flag="--help"):
    code, said, _ = command(capsys, *name.split(), flag)
    assert code == 0 and said.err == ""
    return said.out


def test_every_command_is_here():
    assert {name.split()[0] for name in CLASSES} == set(COMMANDS)


@pytest.mark.parametrize("name", CLASSES)
def test_help_says_what_is_read_and_written_and_its_example_parses(name, capsys, monkeypatch):
    text = helped(capsys, name)
    for word in ("Reads:", "Writes:", "Example: hf-proxy ", "further flags:"):
        assert word in text
    for word in ("None", "(default: )"):  # python's, or nothing
        assert word not in text
    assert max(map(len, text.splitlines())) <= 100
    assert "--config FILE.yaml" in text and "--json" in text and "--debug" in text
    parser = RecipeParser(CLASSES[name], prog=f"hf-proxy {name}")
    example = text.split("Example: ")[1].split("\n\n")[0]
    monkeypatch.chdir(ROOT)
    words = shlex.split(example.replace("\n", " "))
    assert words[: len(name.split()) + 1] == ["hf-proxy", *name.split()]
    configs = parser.parse(words[len(name.split()) + 1 :])
    assert [type(config) for config in configs] == list(CLASSES[name])
    # what is named as needed is asked for, and nothing else
    if name not in ("rank", "demo", "predict"):
        with pytest.raises(InputError) as stopped:
            parser.parse([])
        needed = re.findall(r"^  (--\w+)", text.split("needed:")[1].split("further")[0], re.M)
        assert str(stopped.value).split(" missing")[0].split(", ") == needed
    undocumented = re.findall(r"^  --\w+ ?\S*$\n(?!\s{26})", text, re.M)
    assert undocumented == []


# what takes most of a start, each of them half a second and more
HEAVY = {"torch", "transformers", "trl", "datasets", "accelerate", "scipy.stats", "matplotlib"}


def loaded_by(*lines):
    """The heavy libraries that a process has loaded after these commands, one after the other."""
    code = "import sys\nfrom hf_proxy.cli import main\n"
    code += "".join(f"assert main({line.split()}) == 0\n" for line in lines)
    code += "print(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return HEAVY & set(done.stderr.split())


def test_help_loads_no_torch():
    groups = {name.split()[0] for name in CLASSES if " " in name}
    assert loaded_by("--help", *(f"{name} --help" for name in [*CLASSES, *groups])) == set()


def test_the_guard_of_help_can_fail(tmp_path):
    (tmp_path / "traces.jsonl").write_text('{"prompt": "1+1?", "trace": "2"}\n')
    assert "datasets" in loaded_by(f"traces check --source {tmp_path / 'traces.jsonl'}")


@pytest.mark.parametrize("name", TRAINING)
def test_help_of_a_training_shows_our_flags_and_help_all_the_trainers_too(name, capsys):
    short, long = helped(capsys, name), helped(capsys, name, "--help_all")
    assert len(short.splitlines()) < 100 < len(long.splitlines())
    for flag in ("--model_name_or_path", "--output_dir"):
        assert flag in short.split("needed:")[1].split("further flags:")[0]
    assert "\n  --adam_beta1" not in short and f"hf-proxy {name} --help_all" in short
    assert "\n  --adam_beta1" in long and "\n  --lora_r" in long
    assert long.index("--resume") < long.index("--adam_beta1")


def test_one_flag_has_one_help():
    """The same word for the same thing in every command."""
    helps = {}
    for name, (own, *_) in CLASSES.items():
        for field in own.__dataclass_fields__.values():
            helps.setdefault(field.name, {})[name] = field.metadata["help"]
    for flag in ("dtype", "tokens_per_batch", "max_length", "too_long", "resume", "world_size"):
        assert len(set(helps[flag].values())) == 1, helps[flag]
    # one that is also a switch says so behind it
    assert len({said.partition(". ")[0].rstrip(".") for said in helps["amateur"].values()}) == 1


CASES = [
    # commands, actions, flags
    ("scoer", "no command 'scoer' (did you mean score?); hf-proxy --help"),
    ("traces chekc", "no action 'chekc' (did you mean check?)"),
    ("contrast", "name an action: mine, show, foretell"),
    ("score", "--models, --traces missing, here or in --config"),
    ("train --use_cpu", "--soft_targets, --model_name_or_path, --output_dir missing"),
    ("score model", "'model' belongs to no flag; write --FLAG model"),
    ("score --model model --traces traces.jsonl", "--model: there is no such flag (did you mean"),
    ("score --models --traces t", "--models: a value is missing after it"),
    ("score --num_traces abc", "--num_traces: 'abc' is no whole number"),
    ("predict --level high", "--level: 'high' is no number"),
    ("score --unit words", "--unit: 'words' is none of letter, byte"),
    ("score --use_score_cache maybe", "--use_score_cache: 'maybe' is not true or false"),
    # YAML
    ("score --config", "--config: name a YAML file after it"),
    ("score --config no.yaml", "no.yaml: cannot be read (No such file"),
    ("score --config other", "other: cannot be read (Is a directory)"),
    ("score --config list.yaml", "list.yaml: expected keys with values"),
    ("score --config empty.yaml", "empty.yaml: expected keys with values, found nothing"),
    ("score --config torn.yaml", "torn.yaml, row 2: no YAML"),
    (
        "score --config key.yaml",
        "key.yaml, field num_trace: there is no such key (did you mean num",
    ),
    ("score --config word.yaml", "word.yaml, field num_traces: 'abc' is no whole number"),
    ("score --config half.yaml", "half.yaml, field num_traces: '2.5' is no whole number"),
    ("score --config choice.yaml", "choice.yaml, field unit: 'bytes' is none of letter, byte"),
    ("score --config null.yaml", "null.yaml, field models: it is empty"),
    ("score --config several.yaml", 'several.yaml, field traces: expected one value, found ["a'),
    # numbers and expressions
    ("score --models model --traces traces.jsonl --num_traces -2", "num_traces: -2 is too small"),
    ("score --models model --traces traces.jsonl --tokens_per_batch 0", "tokens_per_batch: 0 is"),
    ("traces import --source rows.jsonl --output_dir o --num_traces 0", "num_traces: 0 is too sm"),
    ("traces import --source rows.jsonl --output_dir o --remove ((", "no regular expression (mis"),
    ("traces import --source rows.jsonl --output_dir o --remove .*", "row 0 (example_id '0'), fie"),
    ("traces check --source rows.jsonl --columns prompt:q", "'prompt:q' is no pair; write OURS="),
    (
        "accuracy --models model --problems qa.jsonl --output_dir o --answer_pattern ((",
        "field answer_pattern: '((' is no regular expression",
    ),
    ("accuracy --models m m --problems qa.jsonl --output_dir o", "models: one is named twice"),
    ("contrast show --source other --num_rows -1", "field num_rows: -1 is too small"),
    ("rank --scores a --seed -1", "field seed: -1 is too small"),
    (
        "fit --points a.csv --predictions b.jsonl --output_dir o",
        "points are given, and predictions",
    ),
    # data files
    ("traces check --source empty.jsonl", "empty.jsonl: it is empty"),
    ("traces check --source latin.jsonl", "latin.jsonl, row 0: no UTF-8 text at byte 12"),
    ("traces check --source torn.parquet", "torn.parquet: no Parquet file"),
    ("traces check --source nobody/nothing", "nobody/nothing: neither a file, a folder nor a hub"),
    ("traces check --source rows.jsonl --split test", "there is no split 'test' here; leave split"),
    ("traces check --source qa.jsonl", "--columns prompt=question trace=answer"),
    ("fit --points latin.csv --output_dir o", "latin.csv: no UTF-8 text at byte 11"),
    ("predict --curves nope.json --scores 1", "nope.json: cannot be read (No such file"),
    ("predict --curves model/config.json --scores 1", "config.json: form, fits, left_out"),
    # models
    (
        "score --models bare --traces traces.jsonl",
        "bare: there is no tokenizer here; tokenizer.sav",
    ),
    ("score --models cut --traces traces.jsonl", "cut: no model can be loaded (SafetensorError"),
    ("score --models torn --traces traces.jsonl", "torn: no tokenizer can be loaded (OSError: It"),
    ("score --models unknown --traces traces.jsonl", "unknown: no model can be loaded (ValueError"),
    ("score --models model --traces traces.jsonl --context chat", "no chat template; pass a conte"),
    # folders
    ("score --models model --traces traces.jsonl --output_dir text.txt", "text.txt is a file, not"),
    ("fit --points points.csv --output_dir text.txt/sub", "text.txt is a file, not a folder"),
    (
        "traces import --source rows.jsonl --output_dir other --overwrite",
        "something else than a sa",
    ),
    ("report other --tokenizer nope", "nope: neither a folder nor a hub model"),
]
MINE = "contrast mine --expert model --amateur model --output_dir o --context {prompt} --prompts "
CASES += [
    (MINE + "text.txt", "text.txt: file type '.txt' is not read; name a file: .jsonl"),
    (MINE + "other", "other: a folder; name a file: .jsonl"),
    (MINE + "nobody/nothing", "nobody/nothing: neither a file nor a hub data set"),
    (MINE + "empty.jsonl", "empty.jsonl: it holds no rows"),
    (MINE + "empty.csv", "empty.csv: it cannot be read as .csv (No columns"),
    (MINE + "bad.jsonl", "bad.jsonl, line 2: no JSON"),
    (MINE + "number.jsonl", "number.jsonl, row 0, field prompt: expected text, found 3"),
    (MINE + "rows.jsonl --batch_size 0", "field batch_size: 0 is too small; give 1 or more"),
]
FINETUNE = (
    "finetune --use_cpu --output_dir o --model_name_or_path model --traces traces.jsonl "
    "--completion_column trace --train_data "
)
CASES += [
    (FINETUNE + "rows.jsonl --model_name_or_path no/model", "no/model: neither a folder nor a hub"),
    (FINETUNE + "rows.jsonl --model_name_or_path bare", "bare: there is no tokenizer here"),
    (FINETUNE + "rows.jsonl --max_stpes 3", "--max_stpes: there is no such flag (did you mean --m"),
    (FINETUNE + "rows.jsonl --eval_strategy step", "--eval_strategy: 'step' is none of no, steps"),
    (
        FINETUNE + "rows.jsonl --eval_strategy epoch",
        "eval_strategy=epoch evaluates, on no row; set",
    ),
    (FINETUNE + "rows.jsonl --score_strategy steps", "score_steps goes with score_strategy=steps"),
    (FINETUNE + "rows.jsonl --num_eval -4", "field num_eval: -4 is too small"),
    (FINETUNE + "number.jsonl", "number.jsonl, row 0, field prompt: expected text, found 3"),
]


@pytest.mark.parametrize(("line", "message"), CASES, ids=[line for line, _ in CASES])
def test_a_mistake_ends_with_two_and_one_line(line, message, folder, capsys):
    code, said, _ = command(capsys, *line.split())
    lines = [line for line in said.err.splitlines() if "FutureWarning" not in line]
    errors = [line for line in lines if line.startswith("hf-proxy: error: ")]
    assert code == 2 and len(errors) == 1 and lines[-1] == errors[0], said.err
    assert message in errors[0]
    assert "usage:" not in said.err and "Traceback" not in said.err and "Errno" not in said.err
    assert (folder / "other" / "precious.txt").read_text() == "keep me"
    assert (folder / "text.txt").read_text() == "hello"


def test_no_bfloat16_is_said_with_the_flags_that_help(folder, capsys, monkeypatch):
    monkeypatch.setattr("transformers.training_args.is_torch_bf16_gpu_available", lambda: False)
    code, said, _ = command(capsys, *FINETUNE.replace("--use_cpu ", "").split(), "rows.jsonl")
    assert code == 2 and "add --bf16 false" in said.err


def test_a_path_alone_is_a_list_of_one(folder, capsys):
    code, said, found = command(capsys, "score", "--config=alone.yaml", "--json")
    assert code == 0, said.err
    assert [score["model_id"] for score in found["scores"]] == ["model"]


def test_a_word_or_true_and_false(folder):
    parser = RecipeParser(CLASSES["finetune"], prog="hf-proxy finetune")
    line = ["--model_name_or_path", "m", "--train_data", "d", "--output_dir", str(folder / "out")]
    line += ["--traces", "t", "--bf16", "false", "--use_cpu"]
    flag = "--include_num_input_tokens_seen"
    # of true and false the arguments make words themselves
    for typed, meant in (("non_padding", "non_padding"), ("all", "all"), ("false", "no")):
        found = [vars(one) for one in parser.parse([*line, flag, typed])]
        assert meant in [one.get(flag[2:]) for one in found]
    file = folder / "words.yaml"
    file.write_text("include_num_input_tokens_seen: non_padding\n")
    found = [vars(one) for one in parser.parse([*line, "--config", str(file)])]
    assert "non_padding" in [one.get(flag[2:]) for one in found]
    with pytest.raises(InputError, match="'padding' is none of true, false, no, all, non_padding"):
        parser.parse([*line, flag, "padding"])


def test_debug_shows_the_traceback_in_every_command(folder, capsys):
    for line in ("score --models model --traces no.jsonl --debug", FINETUNE + "no.jsonl --debug"):
        code, said, _ = command(capsys, *line.split())
        assert code == 2 and "Traceback" in said.err and "no such file" in said.err


def test_a_file_that_cannot_be_written_is_named(folder, capsys):
    with pytest.raises(InputError, match=r"text.txt/page.html: cannot be written \("):
        write_text(folder / "text.txt" / "page.html", "page")
    with pytest.raises(InputError, match=r"other: cannot be written \("):
        write_text(folder / "other", "page")
    assert sorted(path.name for path in folder.glob(".*")) == []


def test_a_folder_without_the_right_to_write_stops_before_the_work(folder, capsys, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write everywhere
    code, said, _ = command(capsys, "score", "--models", "m", "--traces", "t", "--output_dir=other")
    assert code == 2 and "no right to write" in said.err


def test_a_systems_error_names_its_file(folder, capsys):
    def work(config):
        """Read what is not there."""
        (folder / "nothing").read_text()

    assert run(RecipeConfig, work, [], prog="hf-proxy work") == 1  # a failure, not bad input
    said = capsys.readouterr().err
    assert "nothing: No such file or directory; check path and rights (--debug" in said
    assert "Errno" not in said


def test_only_a_set_is_overwritten(folder):
    traces = make_traces(3)
    save_dataset(traces, folder / "set", {})
    save_dataset(traces, folder / "set", {}, overwrite=True)
    (folder / "empty").mkdir()
    save_dataset(traces, folder / "empty", {}, overwrite=True)
    for name in ("other", "text.txt"):
        with pytest.raises(InputError, match="something else than a saved set is here"):
            save_dataset(traces, folder / name, {}, overwrite=True)


def test_an_unknown_split_of_a_saved_set_is_named(folder, capsys):
    DatasetDict({"train": make_traces(3)}).save_to_disk(str(folder / "splits"))
    code, said, _ = command(capsys, "traces", "check", "--source", "splits", "--split", "tset")
    assert code == 2 and "splits: there is no split 'tset'; it has train" in said.err
