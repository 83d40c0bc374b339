"""Commands as a user types them: tables, JSON, caches, and one line on bad input."""

import dataclasses
import json
import math
import random
import re
import shutil

import pytest
import torch
from helpers.formats import SHAPES, chat, tokens, write_rows
from helpers.models import make_model
from helpers.processes import ROOT, Forked, command
from peft import LoraConfig, get_peft_model

from hf_proxy import InputError, align_traces, load_traces, score_traces
from hf_proxy.recipes.library.scores import read_scores
from hf_proxy.recipes.library.small_world import problems
from hf_proxy.recipes.library.training import last_checkpoint
from hf_proxy.scoring.masks import masked_figures


@pytest.fixture(autouse=True)
def own_score_cache(monkeypatch, tmp_path):
    """No test finds what another has scored."""
    monkeypatch.setattr("hf_proxy.records.storage.cache_dir", lambda: tmp_path / "cache")


@pytest.fixture
def folder(tmp_path, traces, tokenizer):
    """A model, a run of two checkpoints, an adapter, and a trace set."""
    model = make_model("llama", len(tokenizer))
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    for step in (2, 10):
        checkpoint = tmp_path / "run" / f"checkpoint-{step}"
        changed = make_model("llama", len(tokenizer))
        changed.lm_head.weight.data *= 1 + step / 10
        changed.save_pretrained(checkpoint)
        tokenizer.save_pretrained(checkpoint)
        (checkpoint / "trainer_state.json").write_text(json.dumps({"global_step": step}))
    model.name_or_path = str(tmp_path / "model")
    tuned = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"]))
    for name, parameter in tuned.named_parameters():
        if "lora_B" in name:
            torch.nn.init.constant_(parameter, 0.05)
    tuned.save_pretrained(tmp_path / "adapter")
    traces.to_json(str(tmp_path / "traces.jsonl"))
    return tmp_path


def test_score_gives_what_the_function_gives(folder, capsys, traces, tokenizer):
    models = [folder / "model", folder / "run", folder / "adapter"]
    arguments = ["score", "--models", *models, "--traces", folder / "traces.jsonl", "--json"]
    code, said, found = command(capsys, *arguments, "--output_dir", folder / "out")
    assert code == 0
    # a shell hands over backslash and n: that is the same setting
    again = command(capsys, *arguments, "--context", "{prompt}\\n")[2]
    assert again["scores"][0]["setting"] == found["scores"][0]["setting"]
    names = [score["model_id"] for score in found["scores"]]
    run = folder / "run"
    assert names == [
        str(folder / "model"),
        str(run / "checkpoint-2"),
        str(run / "checkpoint-10"),
        str(folder / "adapter"),
    ]
    assert [score["step"] for score in found["scores"]] == [None, 2, 10, None]
    aligned = align_traces(load_traces(folder / "traces.jsonl"), tokenizer)
    expected = score_traces(make_model("llama", len(tokenizer)), aligned)
    assert found["scores"][0]["value"] == expected.value
    assert found["scores"][0]["setting"] == expected.setting.hash
    assert len({score["value"] for score in found["scores"]}) == 4
    assert [c["metric"] for c in found["comparisons"]] == ["value"] * 3
    assert f"{expected.value:.6f}" in said.out and "90 % interval" in said.out
    lines = (folder / "out" / "scores.jsonl").read_text().splitlines()
    assert json.loads(lines[0])["rows"]["num_labels"] == list(expected.rows["num_labels"])
    assert json.loads((folder / "out" / "provenance.json").read_text())["versions"]["torch"]


def test_equal_weights_are_not_scored_again(folder, capsys, monkeypatch):
    arguments = ["score", "--models", folder / "model", "--traces", folder / "traces.jsonl"]
    first = command(capsys, *arguments, "--json")[2]["scores"][0]
    shutil.copytree(folder / "model", folder / "copy")

    def scored(*args, **kwargs):
        raise AssertionError("scored again")

    monkeypatch.setattr("hf_proxy.scoring.scoring.score_traces", scored)
    arguments[2] = folder / "copy"  # another path, the same weights
    code, said, found = command(capsys, *arguments, "--json")
    assert code == 0 and "cached" in said.out
    second = found["scores"][0]
    assert second["cached"] and not first["cached"]
    assert second["model_id"] == str(folder / "copy")
    assert second["value"] == first["value"]
    # anything that could change the number asks for a new one
    changes = (
        ("--dtype", "bfloat16"),
        ("--unit", "byte"),
        ("--divisor", "weights"),
        ("--num_traces", "4"),
        ("--use_score_cache", "false"),
    )
    for change in changes:
        code, said, _ = command(capsys, *arguments, *change)
        assert code == 1 and "AssertionError: scored again" in said.err, change
    weights = folder / "copy" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(bytes(data))
    assert command(capsys, *arguments)[0] == 1


def test_models_of_two_tokenizers_compare_by_bits_per_byte(folder, capsys, other_tokenizer):
    make_model("gpt2", len(other_tokenizer)).save_pretrained(folder / "other")
    other_tokenizer.save_pretrained(folder / "other")
    models = ["--models", folder / "model", folder / "other"]
    code, said, found = command(
        capsys, "score", *models, "--traces", folder / "traces.jsonl", "--json"
    )
    assert code == 0
    assert found["comparisons"][0]["metric"] == "bits_per_byte"
    assert re.search(r"bits per byte [+-]\d", said.out)


def test_import_annotate_check(folder, capsys, tmp_path):
    rows = [{"question": f"{n}+1?", "answer": f"{n}+1=<<{n}+1={n + 1}>>{n + 1}"} for n in range(6)]
    (tmp_path / "raw.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    code, _, found = command(
        capsys,
        *["traces", "import", "--source", tmp_path / "raw.jsonl", "--format", "text"],
        *["--columns", "prompt=question", "trace=answer", "--remove", "<<.*?>>"],
        *["--num_traces", "5", "--output_dir", tmp_path / "text", "--json"],
    )
    assert code == 0
    assert found["counts"] == {"in": 6, "kept": 5, "dropped": {}}
    assert load_traces(tmp_path / "text")[2]["trace"] == "2+1=3"

    code, _, found = command(
        capsys,
        *["traces", "annotate", "--source", tmp_path / "text", "--frontier", folder / "model"],
        *["--output_dir", tmp_path / "annotated", "--json"],
    )
    assert code == 0 and found["counts"]["kept"] == 5
    provenance = json.loads((tmp_path / "annotated" / "provenance.json").read_text())
    assert provenance["frontier"]["name"] == str(folder / "model")
    assert provenance["parameters"]["context"] == "{prompt}\n"

    code, said, found = command(capsys, "traces", "check", "--source", tmp_path / "text", "--json")
    assert found["letters_without_probability"] == found["letters"] == 5 * 5
    code, said, found = command(
        capsys, "traces", "check", "--source", tmp_path / "annotated", "--json"
    )
    annotated = load_traces(tmp_path / "annotated")
    assert code == 0
    assert found["rows"] == 5 and found["letters_without_probability"] == 0
    assert found["frontier_tokens"] == sum(map(len, annotated["frontier_spans"]))
    assert sum(found["weights_histogram"]) == found["frontier_tokens"]
    for word in ("rows", "frontier tokens", "letters without probability", "dropped", "0.9 - 1.0"):
        assert word in said.out


def test_masked_traces_give_perplexities_of_words_and_bytes(folder, capsys, tmp_path, tokenizer):
    """Against a plain forward: nats of the labels that touch a mask, over words and bytes."""
    rows = [
        {"question": "Start with 4.", "reasoning": "We <span>double\nit</span> to 8, <span>ok"
         "<\\span>."},
        {"question": "And 5?", "reasoning": "It is ten."},
    ]  # fmt: skip
    path = tmp_path / "masks.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = ["--output_dir", tmp_path / "out"]
    arguments = ["score", "--models", folder / "model", "--traces", path, "--json", *out]
    code, said, found = command(capsys, *arguments)
    assert code == 0 and "word perplexity" in said.out
    model = make_model("llama", len(tokenizer))
    nll, words, num_bytes = 0.0, 0, 0
    for prompt, trace, masks in (
        ("Start with 4.", "We double\nit to 8, ok.", ("double\nit", "ok")),
        ("And 5?", "It is ten.", ("It is ten.",)),
    ):
        context = tokenizer(prompt + "\n")["input_ids"]
        ids = tokenizer(trace, add_special_tokens=False)["input_ids"]
        with torch.no_grad():
            logits = model(torch.tensor([context + ids])).logits[0].double()
        end = 0
        for place, token in enumerate(ids):
            start, end = end, end + len(tokenizer.decode([token]))
            if any(start < trace.find(m) + len(m) and end > trace.find(m) for m in masks):
                nll -= torch.log_softmax(logits[len(context) + place - 1], -1)[token].item()
        words += len("".join(masks).split())
        num_bytes += len("".join(masks))
    score = found["scores"][0]
    assert score["setting_parts"]["divisor"] == "weights"
    assert score["masked"] == {
        "word_perplexity": pytest.approx(math.exp(nll / words), rel=1e-5),
        "byte_perplexity": pytest.approx(math.exp(nll / num_bytes), rel=1e-5),
        "bits_per_byte": pytest.approx(nll / num_bytes / math.log(2), rel=1e-6),
        "num_words": words,
        "num_bytes": num_bytes,
    }
    line = json.loads((tmp_path / "out" / "scores.jsonl").read_text())
    assert line["masked"] == score["masked"]
    ((again, _),) = read_scores(tmp_path / "out" / "scores.jsonl")
    masked = load_traces(path)
    with pytest.raises(InputError, match="row 1: a masked trace of the score is not here; pass"):
        masked_figures(again, masked.select([0]))
    huge = dataclasses.replace(again, rows=again.rows.map(lambda _: {"weighted_nll_sum": 1e6}))
    assert masked_figures(huge, masked)["word_perplexity"] is None


def test_traces_of_servers_are_imported_and_their_health_is_told(folder, capsys, tmp_path):
    rows = [source | {"example_id": name} for name, (source, _) in SHAPES.items()]
    cut = rows[0] | {"response": chat("cut", tokens([b"cut"], [-1.0]), "length")}
    source = write_rows(tmp_path / "rows.jsonl", [*rows, cut | {"example_id": "cut"}])
    where = ["--source", source, "--protocol", "text", "--json"]
    code, said, found = command(
        capsys, "traces", "import", *where, "--part", "answer", "--output_dir", tmp_path / "set"
    )
    dropped = {"answer cut off (finish_reason length)": 1, "no answer (refused or empty)": 1}
    assert code == 0 and found["counts"]["dropped"] == dropped
    provenance = json.loads((tmp_path / "set" / "provenance.json").read_text())
    assert provenance["health"]["dropped_rows"] == {
        "answer cut off (finish_reason length)": [str(len(rows))],
        "no answer (refused or empty)": [str(len(rows) - 1)],  # reasoning alone
    }
    assert "rows dropped: 1 x answer cut off (finish_reason length) (row" in said.out
    check = ["traces", "check", "--model", folder / "model"]
    code, said, found = command(capsys, *check, *where)
    assert code == 0
    assert found["rows"] == len(rows) and found["parts"]["reasoning"] > 5
    assert found["window"] == 640 and found["beyond_window"] == 0 and found["longest"] > 10
    for word in ("window of the model", "probabilities exactly 1", "worth a look", "duplicates"):
        assert word in said.out
    code, said, _ = command(capsys, *check, *where, "--strict")
    assert code == 2 and f"row {len(rows)} (example_id 'cut')" in said.err

    certain = chat("ab", tokens([b"a", b"b"], [0.0, -9999.0]))
    write_rows(source, [{"prompt": "q", "response": certain}])
    assert command(capsys, "traces", "check", "--source", source)[0] == 2
    out = ["--source", source, "--output_dir", tmp_path / "certain"]
    code, said, _ = command(capsys, "traces", "import", *out)
    assert code == 2 and "100.0% of the probabilities are exactly 0 or 1" in said.err
    assert command(capsys, "traces", "import", *out, "--allow_degenerate")[0] == 0
    with pytest.warns(UserWarning, match="100% of the probabilities are exactly 0 or 1"):
        load_traces(tmp_path / "certain")  # allowed once, said each time


def test_yaml_keys_are_flags(folder, capsys):
    path = folder / "score.yaml"
    path.write_text(
        f"models: ['{folder / 'model'}']\ntraces: {folder / 'traces.jsonl'}\nunit: byte\n"
    )
    assert command(capsys, "score", "--config", path)[0] == 0
    path.write_text(path.read_text() + "colour: red\n")
    code, said, _ = command(capsys, "score", "--config", path)
    assert code == 2 and "colour" in said.err


def test_bad_arguments_and_input_end_with_two_and_one_line(folder, capsys):
    model, traces = folder / "model", folder / "traces.jsonl"
    pickled = folder / "pickled"
    shutil.copytree(model, pickled)
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    rows = [json.loads(line) for line in traces.read_text().splitlines()]
    rows[4]["frontier_logprobs"][1] = None
    broken = folder / "broken.jsonl"
    broken.write_text("".join(json.dumps(row) + "\n" for row in rows))
    cases = [
        (["--models", folder / "nowhere/at/all", "--traces", traces], "neither a folder nor a hub"),
        (["--models", folder / "run" / "..", "--traces", traces], "no config.json, adapter_config"),
        (["--models", pickled, "--traces", traces], "no .safetensors weights; pickled weights are"),
        (
            ["--models", model, "--traces", broken],
            "broken.jsonl, row 4 .*logprob 1 is missing; ask",
        ),
        (["--models", model, "--traces", folder / "no.jsonl"], "no.jsonl: there is no such file"),
        (["--models", model, "--traces", traces, "--context", "Q:"], "has no {prompt}"),
    ]
    for arguments, message in cases:
        code, said, _ = command(capsys, "score", *arguments)
        assert code == 2, said
        errors = [line for line in said.err.splitlines() if "error" in line]
        assert len(errors) == 1 and re.search(message.replace("{", r"\{"), errors[0]), errors
        assert "Traceback" not in said.err
    code, said, _ = command(capsys, "score", *cases[-1][0], "--debug")
    assert code == 2 and "Traceback" in said.err
    for arguments in (["score"], ["score", "--nonsense"], ["nonsense"], [], ["traces", "fetch"]):
        assert command(capsys, *arguments)[0] == 2
    for arguments in (["--help"], ["traces", "--help"], ["traces", "check", "--help"]):
        assert command(capsys, *arguments)[0] == 0


def test_an_existing_folder_is_not_overwritten_unasked(folder, capsys):
    arguments = [
        "traces",
        "import",
        "--source",
        folder / "traces.jsonl",
        "--output_dir",
        folder / "o",
    ]
    assert command(capsys, *arguments)[0] == 0
    code, said, _ = command(capsys, *arguments)
    assert code == 2 and "there already; name another output_dir, or pass --overwrite" in said.err
    assert command(capsys, *arguments, "--overwrite")[0] == 0
    code, said, _ = command(capsys, *arguments, "--overwrite", "--remove", "x")
    assert code == 2 and "no letter may be cut" in said.err


def finetune_arguments(folder, tokenizer, **changes):
    """A run of the fine-tuning recipe on a tiny model and generated problems."""
    rows = problems(random.Random(3))
    data = folder / "train.jsonl"
    if not data.exists():
        text = "".join(json.dumps(next(rows)) + "\n" for _ in range(240))
        data.write_text(text.replace("How many", "<<x>>How many"))
        tokenizer.pad_token = tokenizer.eos_token
        tokenizer.save_pretrained(folder / "model")
    flags = {
        "model_name_or_path": folder / "model",
        "train_data": data,
        "prompt_column": "prompt",
        "completion_column": "trace",
        "traces": folder / "traces.jsonl",
        "output_dir": folder / "tuned",
        "max_steps": 120,
        "eval_steps": 30,
        "save_steps": 30,
        "num_eval": 8,
        "use_cpu": "true",
        "disable_tqdm": "true",
        "dataloader_pin_memory": "false",
        "per_device_train_batch_size": 1,
    } | changes
    config = ROOT / "recipes" / "finetune_with_proxy.yaml"
    pairs = [str(part) for name, value in flags.items() for part in (f"--{name}", value)]
    return ["--config", str(config), *pairs]


def test_finetune_killed_and_resumed(shared, folder, capsys, tokenizer):
    arguments = finetune_arguments(folder, tokenizer)
    file = folder / "tuned" / "hf_proxy" / "predictions.jsonl"
    process = Forked(shared, ROOT / "recipes" / "finetune_with_proxy.py", *arguments)
    process.kill_once(lambda: file.exists() and file.read_text().count("\n") >= 3)
    at_kill = [json.loads(line) for line in file.read_text().splitlines()]
    assert 3 <= len(at_kill) < 5  # in the middle
    code, said, found = command(capsys, "finetune", *arguments, "--json")
    assert code == 0, said.err
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert [line["step"] for line in lines] == [0, 30, 60, 90, 120]
    assert [line["value"] for line in lines[:2]] == [line["value"] for line in at_kill[:2]]
    assert {line["run_id"] for line in lines} == {at_kill[0]["run_id"]}
    best = min(lines[1:], key=lambda line: line["value"])
    assert found["best"].endswith(f"checkpoint-{best['step']}")
    assert "best by eval_rbridge_nll" in said.out
    # the score in the callback is that of the checkpoint
    models = ["--models", folder / "tuned" / "checkpoint-120", "--dtype", "float32"]
    code, _, scored = command(
        capsys, "score", *models, "--traces", folder / "traces.jsonl", "--json"
    )
    assert scored["scores"][0]["value"] == pytest.approx(lines[-1]["value"], rel=1e-6)
    assert scored["scores"][0]["step"] == 120


def test_a_checkpoint_cut_short_is_passed_over(tmp_path, caplog):
    assert last_checkpoint(tmp_path / "none", resume=True) is None
    for name, state in (("9", "{}"), ("20", '{"global_step": 2'), ("100", None), ("7-old", "{}")):
        (tmp_path / f"checkpoint-{name}").mkdir()
        if state is not None:
            (tmp_path / f"checkpoint-{name}" / "trainer_state.json").write_text(state)
    assert last_checkpoint(tmp_path, resume=True) == str(tmp_path / "checkpoint-9")
    assert [r.getMessage().split("/")[-1].split()[0] for r in caplog.records] == [
        "checkpoint-100",
        "checkpoint-20",
    ]
    assert last_checkpoint(tmp_path, resume=False) is None


def test_finetune_resumes_past_a_checkpoint_cut_short(folder, capsys, tokenizer):
    arguments = finetune_arguments(folder, tokenizer)
    tuned = folder / "tuned"
    for steps in (60, 120):
        code, said, _ = command(capsys, "finetune", *arguments, "--max_steps", str(steps))
        assert code == 0, said.err
        if steps == 60:  # as a kill in the middle of the last save leaves it
            for name in ("trainer_state.json", "model.safetensors"):
                (tuned / "checkpoint-60" / name).unlink()
    lines = (tuned / "hf_proxy" / "predictions.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [0, 30, 60, 90, 120]
    assert (tuned / "checkpoint-60" / "trainer_state.json").exists()


def test_finetune_stops_before_a_wrong_run(folder, capsys, tokenizer):
    cases = [
        ({"world_size": 8}, "1 processes run, world_size=8 was asked for"),
        ({"train_data": folder / "no.jsonl"}, "no.jsonl: there is no such file"),
        ({"completion_column": "gold"}, r"field gold: there is no such column; it has \['prom"),
        ({"num_eval": 240}, "num_eval=240 leaves no row"),
        ({"greater_is_better": "true"}, r"TrainingArguments\(greater_is_better=False\)"),
        ({"colour": "red"}, "colour"),
    ]
    for changes, message in cases:
        code, said, _ = command(
            capsys, "finetune", *finetune_arguments(folder, tokenizer, **changes)
        )
        assert code == 2 and re.search(message, said.err), said.err[-300:]
