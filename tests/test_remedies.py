"""What a user stumbles over in the first hour: each ends with what to do, or is simply read."""

import gzip
import json
import os
import subprocess
import sys

import pytest
from datasets import Dataset
from helpers.models import make_model
from helpers.processes import ROOT, command

from hf_proxy import InputError, __version__, load_metric, load_traces
from hf_proxy.cli import main
from hf_proxy.recipes.library.loop_tables import facts_of_loop, print_loop
from hf_proxy.recipes.library.rows import load_prompts, load_rows
from hf_proxy.recipes.library.shown_sets import open_set
from hf_proxy.tokens.messages import text_of_completion
from hf_proxy.tokens.prompts import read_context, read_prompts

QUESTION = {"question": "1+1?", "answer": "2"}
ANSWER = {
    "id": "chat-1",
    "object": "chat.completion",
    "choices": [
        {
            "message": {"role": "assistant", "content": "2"},
            "finish_reason": "stop",
            "logprobs": {"content": [{"token": "2", "logprob": -0.1, "bytes": [50]}]},
        }
    ],
}
TURNS = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "1+1?"}]


def write(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


# what is no trace set yet


def test_questions_and_answers_name_the_import(tmp_path, capsys):
    path = write(tmp_path / "qa.jsonl", QUESTION)
    code, said, _ = command(capsys, "score", "--models", "m", "--traces", path)
    assert code == 2
    line = f"hf-proxy traces import --source {path} --columns prompt=question trace=answer"
    assert line in said.err
    # the remedy as it is printed
    words = line.removeprefix("hf-proxy ").split()
    assert command(capsys, *words, "--output_dir", tmp_path / "set")[0] == 0
    assert load_traces(tmp_path / "set")["trace"] == ["2"]


@pytest.mark.parametrize("has_logprobs", [True, False])
def test_a_bare_answer_says_how_to_wrap_it(tmp_path, capsys, has_logprobs):
    answer = json.loads(json.dumps(ANSWER))
    if not has_logprobs:
        del answer["choices"][0]["logprobs"]
    path = write(tmp_path / "answers.jsonl", answer)
    code, said, _ = command(capsys, "score", "--models", "m", "--traces", path)
    assert code == 2 and 'wrap it as {"example_id": ..., "prompt": ..., "response": ' in said.err
    assert "--columns" not in said.err
    if has_logprobs:  # wrapped so, it is named by its own id
        write(path, {"prompt": "1+1?", "response": answer})
        assert load_traces(path)["example_id"] == ["chat-1"]


# chat messages, TRL's usual form


def test_messages_are_prompts_and_completions(tmp_path, capsys, tokenizer, monkeypatch):
    row = {"prompt": TURNS, "completion": [{"role": "assistant", "content": "2"}]}
    path = write(tmp_path / "chat.jsonl", row, row)
    imported = load_traces(path, columns={"trace": "completion"})
    assert (imported["prompt"], imported["trace"]) == (["1+1?"] * 2, ["2"] * 2)
    rows = load_prompts(str(path), "prompt", 1)
    # as the template has it: the row's own system turn stands for ours
    template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}<assistant>"
    monkeypatch.setattr(tokenizer, "chat_template", template)

    def rendered(prompts, **settings):
        ids = read_prompts(prompts, tokenizer, **settings).input_ids
        return [tokenizer.decode(i, skip_special_tokens=True) for i in ids]

    assert rendered(rows) == ["<system>Be brief.<user>1+1?<assistant>"]
    assert rendered(rows, context="Q: {prompt}\n") == ["Q: 1+1?\n"]
    asked = [TURNS[1:]]
    assert rendered(asked, system_prompt="Think.") == ["<system>Think.<user>1+1?<assistant>"]
    assert rendered(asked) == rendered(["1+1?"])
    # a template that refuses system turns takes ours before the question
    monkeypatch.setattr(
        tokenizer,
        "chat_template",
        "{% if messages[0].role == 'system' %}{{ raise_exception('no') }}{% endif %}" + template,
    )
    assert rendered(asked, system_prompt="Think.") == ["<user>Think.\n\n1+1?<assistant>"]
    assert read_context("{prompt}!", tokenizer).render({"prompt": TURNS}) == "1+1?!"


@pytest.mark.parametrize(
    ("turns", "message"),
    [
        ([{"role": "tool", "content": "a"}], "row 0, field prompt: message 0 has the role 'tool'"),
        ([*TURNS, {"role": "assistant", "content": "2"}], "its last message is the assistant's"),
        ([{"role": "user", "content": 3}], "content is 3; expected text"),
        ([{"role": "user", "content": [{"type": "image"}]}], "a part is not text"),
    ],
)
def test_messages_that_no_model_could_be_asked_are_named(turns, message, tokenizer):
    with pytest.raises(InputError, match=message):
        read_prompts([turns], tokenizer, context="{prompt}")


def test_a_completion_is_one_message_of_the_assistant():
    place = {"source": "file", "row": 3, "field": "completion"}
    assert text_of_completion("2", place) == "2"
    with pytest.raises(InputError, match="file, row 3, field completion: expected one message"):
        text_of_completion(TURNS, place)


# files


def test_csv_and_packed_files_are_read(tmp_path, capsys):
    (tmp_path / "a.csv").write_text('question,answer\n1+1?,2\n"a, b?","c\nd"\n')
    write(tmp_path / "b.jsonl", QUESTION)
    (tmp_path / "c.json").write_text(json.dumps([QUESTION]))
    columns = {"prompt": "question", "trace": "answer"}
    for name in ("a.csv", "b.jsonl", "c.json"):
        path = tmp_path / name
        packed = tmp_path / f"{name}.gz"
        packed.write_bytes(gzip.compress(path.read_bytes()))
        plain, unpacked = (load_traces(p, columns=columns) for p in (path, packed))
        assert plain["trace"] == unpacked["trace"] and plain["trace"][0] == "2"
        rows = load_rows(str(packed), {"question": "prompt_column"})
        assert rows["question"] == plain["prompt"]
    assert load_traces(tmp_path / "a.csv", columns=columns)["trace"] == ["2", "c\nd"]


def test_a_torn_gzip_file_is_named(tmp_path):
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(json.dumps(QUESTION).encode() * 9)[:-9])
    with pytest.raises(InputError, match=r"a.jsonl.gz: cannot be read \(not a whole gzip file"):
        load_traces(path)
    path.write_bytes(b"no gzip")
    with pytest.raises(InputError, match="not a whole gzip file: Not a gzipped file"):
        load_traces(path)


@pytest.mark.parametrize(("mark", "name"), [(";", "semicolons"), ("\t", "tabs")])
def test_another_separator_is_named(tmp_path, mark, name):
    path = tmp_path / "a.csv"
    path.write_text(f"question{mark}answer\n1,5{mark}2\n")
    for read in (load_traces, lambda path: load_rows(str(path), {"question": "prompt_column"})):
        with pytest.raises(InputError, match=f"a.csv, row 1: its fields are parted by {name}"):
            read(path)
    path.write_text("question\n1?\n")  # one column alone is none of these
    assert load_rows(str(path), {})["question"] == ["1?"]


# the command line


def test_version_and_help_are_words_too(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"hf-proxy {__version__}\n"
    for words, same in (
        (["help"], ["--help"]),
        (["help", "score"], ["score", "--help"]),
        (["help", "traces", "check"], ["traces", "check", "--help"]),
    ):
        assert main(words) == 0
        said = capsys.readouterr().out
        assert main(same) == 0 and capsys.readouterr().out == said


def test_examples_name_files_that_are_there_wherever_one_stands(capsys, tmp_path, monkeypatch):
    for folder in (ROOT, tmp_path):
        monkeypatch.chdir(folder)
        assert main(["score", "--help"]) == 0
        words = capsys.readouterr().out.split("Example: ")[1].split("\n\n")[0].split()
        found = [word for word in words if "assets" in word]
        assert len(found) == 3 and all(os.path.exists(word) for word in found), found


@pytest.mark.parametrize(
    "words", [["--help"], ["report", "nowhere"], ["traces", "check", "--source"]]
)
def test_who_reads_no_further_hears_no_more(words, tmp_path, monkeypatch):
    """In this process, with a standard output that nobody reads, as under `| head`."""
    if words[-1] == "--source":
        words = [*words, str(write(tmp_path / "a.jsonl", {"prompt": "1?", "trace": "2"}))]
    reader, writer = os.pipe()
    os.close(reader)
    errors = tmp_path / "errors"
    with open(writer, "w") as output, errors.open("w") as error:
        monkeypatch.setattr(sys, "stdout", output)
        monkeypatch.setattr(sys, "stderr", error)
        code = main(words)
    if "nowhere" in words:  # an error that is none of the pipe's
        assert code == 2 and "this is no folder" in errors.read_text()
    else:
        assert (code, errors.read_text()) == (141, "")


def test_another_broken_pipe_is_an_error(monkeypatch, capsys):
    def broken(*_, **__):
        raise BrokenPipeError(32, "a socket broke")

    monkeypatch.setattr("hf_proxy.recipes.report.main", broken)
    assert main(["report", "nowhere"]) == 1
    assert "BrokenPipeError" in capsys.readouterr().err


def test_a_closed_pipe_is_silent_to_the_last_flush():
    line = [sys.executable, "-c", "from hf_proxy.cli import main; raise SystemExit(main(['help']))"]
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(line, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")


# sets, loop, metric


def test_show_finds_the_sets_that_a_report_finds(tmp_path, tokenizer, capsys):
    from hf_proxy import mine_soft_targets

    pair = [make_model("llama", len(tokenizer)) for _ in range(2)]
    run = tmp_path / "run"
    place = run / "hf_proxy" / "soft_targets" / "step-4"
    settings = {"context": "{prompt}", "max_new_tokens": 4, "batch_size": 1, "output_dir": place}
    settings |= {"processing_class": tokenizer, "amateur_processing_class": tokenizer}
    mine_soft_targets(*pair, ["1?", "2?"], **settings)
    show = ["contrast", "show", "--num_rows", "1", "--source"]
    code, said, _ = command(capsys, *show, run)
    assert code == 2 and "the set does not say where its tokenizer is; name" in said.err
    tokenizer.save_pretrained(run / "checkpoint-4")
    for source in (run, place):
        code, said, _ = command(capsys, *show, source)
        assert code == 0 and "kept_share" in said.out
        assert ("note: the set shown is" in said.out) == (source == run)
    # one that is still being mined
    (place / "statistics.json").unlink()
    (place / "shards" / "000001.arrow").unlink()
    code, said, _ = command(capsys, *show, place)
    assert code == 0 and "its mining has not ended: 1 of 2 batches are here" in said.out
    assert len(open_set(str(place), None).rows) == 1
    (place / "shards" / "000000.arrow").unlink()
    code, said, _ = command(capsys, *show, place)
    assert code == 2 and "its mining has written no row yet" in said.err


def test_a_loop_without_evaluations_shows_its_scores(tmp_path, capsys):
    folder = tmp_path / "hf_proxy"
    folder.mkdir()
    score = {"name": "rbridge", "low": None, "high": None, "trace_nll": 2.0, "bits_per_byte": 1.0}
    read = {"value": 0.5, "low": 0.4, "high": 0.6, "level": 0.9, "extrapolated": False}
    write(
        folder / "predictions.jsonl",
        score | {"step": 0, "value": 1.25, "predictions": {}, "seconds": 0.4},
        score | {"step": 4, "value": 1.0, "predictions": {"13B": read}, "seconds": 0.25},
    )
    mined = {"kl_mean": None, "top1_agreement": None, "support_size": None, "flip_rate": None}
    mined |= {"name": "contrast", "num_kept": 1, "num_steps": 4, "kept_share": 0.25}
    write(folder / "contrast.jsonl", mined | {"step": 0, "seconds": 2.0})
    facts = facts_of_loop([{"loss": 1.0, "step": 4}], tmp_path, 9.0)
    last = {"mined_at": 0, "kept_share": 0.25}
    assert facts["rows"] == [
        {"step": 0, "eval_rbridge_nll": 1.25} | last,
        {"step": 4, "eval_rbridge_nll": 1.0, "eval_rbridge_13B_accuracy": 0.5} | last,
    ]
    assert facts["seconds"]["scoring"] == pytest.approx(0.65)
    print_loop(facts["rows"])
    assert [line.split() for line in capsys.readouterr().out.splitlines()] == [
        ["step", "rbridge_13B_accuracy", "rbridge_nll", "kept_share"],
        ["0", "-", "1.2500", "0.2500"],
        ["4", "0.5000", "1.0000", "0.2500"],
    ]


def test_the_metric_names_the_side_that_is_missing():
    rows = Dataset.from_dict({"example_id": ["a"], "label_logprobs": [[-1.0]]}).to_list()
    with pytest.raises(InputError, match="references: they are missing; pass predictions=rows of"):
        load_metric("rbridge").compute(predictions=rows)
    with pytest.raises(InputError, match="predictions: they are missing"):
        load_metric("rbridge").compute(references=[])


# what was met in tests/benchmarks/first_hour.md


@pytest.mark.parametrize("action", ["import", "annotate"])
def test_a_folder_that_is_taken_is_refused_before_the_work(tmp_path, capsys, action):
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "thesis.tex").write_text("")
    line = ["traces", action, "--source", tmp_path / "not read", "--output_dir", tmp_path / "taken"]
    line += ["--frontier", "not loaded"] if action == "annotate" else []
    for flags, problem in (
        ([], "the folder is there already; name another output_dir, or pass --overwrite"),
        (["--overwrite"], "something else than a saved set is here"),
    ):
        code, said, _ = command(capsys, *line, *flags)
        assert code == 2 and problem in said.err


def test_a_set_without_probabilities_says_what_its_tokens_weigh(tmp_path, capsys):
    path = write(tmp_path / "text.jsonl", {"example_id": "a", "prompt": "1+1?", "trace": "2"})
    line = ["traces", "import", "--source", path, "--output_dir", tmp_path / "set"]
    code, said, _ = command(capsys, *line)
    assert code == 0 and "1 letters without p (their tokens weigh 1)" in said.out


def test_an_answer_that_was_cut_names_the_flag(tmp_path, capsys):
    cut = {**ANSWER, "choices": [ANSWER["choices"][0] | {"finish_reason": "length"}]}
    path = write(tmp_path / "cut.jsonl", {"example_id": "a", "prompt": "1+1?", "response": cut})
    code, said, _ = command(
        capsys, "traces", "import", "--source", path, "--output_dir", tmp_path / "set"
    )
    assert code == 2
    assert "ask again, into another output_dir; where it was length, with more max_new" in said.err
