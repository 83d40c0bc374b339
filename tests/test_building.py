"""Traces of frontiers: local ones, and one behind a real server on the loopback."""

import copy
import json
import sys
import time
from pathlib import Path

import building_worker
import numpy as np
import pytest
import torch
from datasets import Dataset
from filelock import FileLock
from helpers.model_server import Faults, ModelServer, serving
from helpers.processes import Forked, command

from hf_proxy import InputError, annotate_traces, build_traces, load_traces
from hf_proxy.building import local
from hf_proxy.building.protocols import PROTOCOLS, read_protocol
from hf_proxy.building.questions import read_questions
from hf_proxy.building.responses import responses_of
from hf_proxy.building.served_annotation import annotate_by_server
from hf_proxy.building.servers import Server
from hf_proxy.building.settings import ServerSettings
from hf_proxy.recipes.library.questions import load_questions
from hf_proxy.recipes.library.trace_building import BuildConfig

ROOT = Path(__file__).parent.parent
EXPERT = ROOT / "recipes" / "assets" / "expert"
KEY = "sk-test-0123456789"
QUICK = ServerSettings(timeout_s=20, max_retries=2)


@pytest.fixture(scope="module")
def expert():
    """A tiny model that writes, and its tokenizer."""
    return building_worker.expert()


@pytest.fixture(scope="module")
def questions():
    lines = (ROOT / "recipes" / "assets" / "problems.jsonl").read_text().splitlines()[:8]
    return [json.loads(line) | {"example_id": f"q{n}"} for n, line in enumerate(lines)]


def scripted(question, answer=None):
    """An answer in the paper's protocol; the right one unless told."""
    final = question["answer"] if answer is None else answer
    return json.dumps({"reasoning": f"We add.\nSo {final}.", "final_answer": final})


@pytest.fixture(scope="module")
def served(expert, questions):
    """The server's address, and what stands between it and who asks."""
    scripts = {q["prompt"]: scripted(q) for q in questions}
    scripts["Item"] = "So 3."
    scripts[questions[1]["prompt"]] = scripted(questions[1], "-1")  # wrong
    faults = Faults(ModelServer(*expert, scripts=scripts).app)
    with serving(faults) as url:
        yield url, faults


@pytest.fixture
def server(served, monkeypatch):
    url, faults = served
    faults.plan, faults.requests, faults.headers, faults.most = {}, [], [], 0
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    return url, faults


def rows_of(dataset):
    return [dict(row) for row in dataset]


def written_bytes(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


# a local frontier


def test_a_local_frontier_writes_traces_with_its_own_probabilities(
    expert, questions, tmp_path, monkeypatch
):
    model, tokenizer = expert
    settings = {"protocol": "text", "max_new_tokens": 60, "batch_size": 2}
    built = build_traces(questions[:4], model, tokenizer, output_dir=tmp_path / "set", **settings)
    assert built["example_id"] == ["q0", "q1", "q2", "q3"]
    assert load_traces(tmp_path / "set")["trace"] == built["trace"]
    shards = responses_of(tmp_path / "set") / "shards"
    assert len(list(shards.iterdir())) == 2
    answers = [
        json.loads(line)
        for path in sorted(shards.iterdir())
        for line in path.read_text().splitlines()
    ]
    way = read_protocol("text")
    for question, answer, row in zip(questions, answers, built, strict=False):
        turns = way.messages(question["prompt"])
        prompt = tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
        ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
        with torch.no_grad():
            logits = model(torch.tensor([ids + answer["ids"]])).logits[0].double()
        at = torch.arange(len(answer["ids"])) + len(ids) - 1
        expected = torch.log_softmax(logits, -1)[at, torch.tensor(answer["ids"])]
        np.testing.assert_allclose(answer["logprobs"], expected, atol=1e-5)
        # greedy: each id is the likeliest; the trace is spelt by all but the end
        assert logits[at].argmax(-1).tolist() == answer["ids"] and answer["ended"]
        assert row["trace"] == tokenizer.decode(answer["ids"], skip_special_tokens=True).strip()
        assert row["frontier_logprobs"] == answer["logprobs"][: len(row["frontier_logprobs"])]
        assert row["prompt"] == question["prompt"]

    # stopped anywhere and begun again: no batch is written twice, and the set is the same
    calls = []

    def counted(*arguments, **named):
        calls.append(named["seed"])
        if len(calls) == 2:
            raise KeyboardInterrupt
        return generate(*arguments, **named)

    generate = local.generate
    monkeypatch.setattr(local, "generate", counted)
    again = {"output_dir": tmp_path / "again", **settings}
    with pytest.raises(KeyboardInterrupt):
        build_traces(questions[:4], model, tokenizer, **again)
    assert not (tmp_path / "again").exists()
    assert rows_of(build_traces(questions[:4], model, tokenizer, **again)) == rows_of(built)
    assert rows_of(build_traces(questions[:4], model, tokenizer, **again)) == rows_of(built)
    assert calls == [[0, 0], [0, 1], [0, 1]]

    # what decides an answer is named when it changes
    for change, part in (
        ({"max_new_tokens": 61}, r"max_new_tokens \(60, now 61\)"),
        ({"seed": 1}, r"seed \(0, now 1\)"),
        ({"protocol": "thinking"}, "protocol"),
        ({"batch_size": 3}, r"batch_size \(2, now 3\)"),
        ({"task": "physics"}, "protocol"),
    ):
        with pytest.raises(InputError, match=f"under other settings: {part}"):
            build_traces(questions[:4], model, tokenizer, overwrite=True, **again | change)
    with pytest.raises(InputError, match="questions"):
        build_traces(questions[:3], model, tokenizer, overwrite=True, **again)
    with pytest.raises(InputError, match="the folder is there already"):
        build_traces(questions[:4], model, tokenizer, **again | {"seed": 1})
    with FileLock(responses_of(tmp_path / "again") / "lock"):
        with pytest.raises(InputError, match="another run is writing here"):
            build_traces(questions[:4], model, tokenizer, **again)


def test_what_a_template_reads_beside_the_turns_is_part_of_what_is_asked(
    expert, questions, tmp_path, server
):
    model, tokenizer = expert
    switched = copy.deepcopy(tokenizer)
    switched.chat_template = "{% if calm %}Ada asks: {% endif %}" + tokenizer.chat_template
    settings = {"protocol": "text", "max_new_tokens": 60, "output_dir": tmp_path / "set"}
    calm = {"chat_template_kwargs": {"calm": True}}
    plain = build_traces(questions[:2], model, switched, **settings)
    again = {**settings, **calm, "overwrite": True}
    with pytest.raises(InputError, match="under other settings: prompts"):
        build_traces(questions[:2], model, switched, **again)
    other = build_traces(questions[:2], model, switched, **again | {"output_dir": tmp_path / "b"})
    assert rows_of(other) != rows_of(plain)
    with pytest.raises(InputError, match="calm"):
        build_traces(questions[:2], model, tokenizer, **again | {"output_dir": tmp_path / "c"})
    with pytest.raises(InputError, match="a server renders its chats itself; give ServerSettings"):
        build_traces(questions[:2], "tiny", base_url=server[0], **settings, **calm)


def test_samples_of_a_question_differ_and_gold_answers_mark_them(expert, questions, tmp_path):
    model, tokenizer = expert
    sampled = {"protocol": "text", "num_samples": 2, "temperature": 1.0, "max_new_tokens": 80}
    first = build_traces(questions[:2], model, tokenizer, output_dir=tmp_path / "a", **sampled)
    assert set(first["example_id"]) <= {"q0#0", "q0#1", "q1#0", "q1#1"} and len(first) > 1
    assert len(set(first["trace"])) == len(first)
    other = build_traces(
        questions[:2], model, tokenizer, output_dir=tmp_path / "b", seed=1, **sampled
    )
    assert first["trace"] != other["trace"]
    with pytest.raises(InputError, match="field num_samples: greedy answers"):
        build_traces(questions, model, tokenizer, output_dir=tmp_path / "c", num_samples=2)
    assert first["correct"].count(True) + first["correct"].count(False) == len(first)
    unread = {"output_dir": tmp_path / "c", "answer_pattern": "#### (.+)"}
    with pytest.raises(InputError, match="row 0: no '#### .* in '2'; set answer_pattern"):
        build_traces([{"prompt": "1+1?", "answer": "2"}], model, tokenizer, **unread)
    with pytest.raises(InputError, match="field answer: a question has no gold answer"):
        build_traces(
            [{"prompt": "1+1?"}], model, tokenizer, output_dir=tmp_path / "c", only_correct=True
        )
    assert not (tmp_path / "c").exists() and not responses_of(tmp_path / "c").exists()


def test_two_processes_write_what_one_writes(of_ranks, tmp_path):
    found = of_ranks("building", 2)
    alone = rows_of(building_worker.build(tmp_path / "set"))
    assert len(alone) > 2 and found["rows"] == [alone, alone]
    assert all("under other settings: seed (0, now 1)" in said for said in found["said"])


def test_protocols_are_files_that_hold_the_question():
    for name in PROTOCOLS:
        way = read_protocol(name, task="physics")
        assert way.messages("{task} 1+1?")[-1]["content"].startswith("{task} 1+1?\n\n")
        assert "{question}" not in way.text("1+1?") and (name == "thinking") == (not way.system)
        assert way.system is None or "physics" in way.system
    assert len({read_protocol(name).hash for name in PROTOCOLS}) == 3
    with pytest.raises(InputError, match="field protocol: 'xml' is not known"):
        read_protocol("xml")


# a served frontier


def test_a_served_frontier_in_the_papers_protocol(server, expert, questions, tmp_path, capfd):
    url, faults = server
    built = build_traces(questions, "tiny", base_url=url, server=QUICK, output_dir=tmp_path / "set")
    assert built["trace"][0] == f"We add.\nSo {questions[0]['answer']}."
    assert built["correct"] == [True, False] + [True] * 6
    # the same tokens by a local pass: the server's values are the model's own
    model, tokenizer = expert
    for row in built:
        at = [row["trace"].encode()[start:end] for start, end in row["frontier_spans"]]
        assert b"".join(at).decode() == row["trace"]
    (shard,) = (responses_of(tmp_path / "set") / "shards").glob("000000-*")
    reply = json.loads(json.loads(shard.read_text())["body"])
    (asked,) = [
        request["messages"]
        for request in faults.requests
        if request["messages"][-1]["content"].startswith(questions[0]["prompt"])
    ]
    text = tokenizer.apply_chat_template(asked, add_generation_prompt=True, tokenize=False)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    new = tokenizer(scripted(questions[0]), add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        logits = model(torch.tensor([ids + new])).logits[0].double()
    expected = torch.log_softmax(logits, -1)[torch.arange(len(new)) + len(ids) - 1, new]
    values = [token["logprob"] for token in reply["choices"][0]["logprobs"]["content"]]
    np.testing.assert_allclose(values, expected, atol=1e-5)
    # nothing is asked twice, also for a set that is filtered otherwise
    assert len(faults.requests) == len(questions)
    right = build_traces(
        questions, "tiny", base_url=url, server=QUICK, output_dir=tmp_path / "set",
        only_correct=True,
    )  # fmt: skip
    assert len(right) == 7 and len(faults.requests) == len(questions)
    provenance = json.loads((tmp_path / "set" / "provenance.json").read_text())
    assert provenance["counts"]["dropped"] == {"wrong answer": 1}
    # the key went out and stands nowhere
    assert {headers["authorization"] for headers in faults.headers} == {f"Bearer {KEY}"}
    said = capfd.readouterr()
    everything = [said.out, said.err, *map(repr, written_bytes(tmp_path).values())]
    assert not any(KEY in text for text in everything)


def test_what_servers_do_to_answers_costs_a_row_and_is_counted(server, questions, tmp_path):
    """Requests go out one by one, so that each fault meets the question that it is meant for."""
    url, faults = server
    one_by_one = ServerSettings(timeout_s=0.6, max_retries=1, concurrency=1)
    faults.plan = {0: 429, 2: "cut", 4: "html", 6: "repeat", 7: "half", 8: "empty"}
    faults.plan |= {9: "no_logprobs", 10: "slow", 11: "slow"}
    where = {"base_url": url, "server": one_by_one, "output_dir": tmp_path / "set"}
    built = build_traces(questions, "tiny", **where)
    # sent again: q0 was busy, q1 cut off, q2 a page of HTML
    assert built["example_id"] == ["q0", "q1", "q2"] and len(faults.requests) == 12
    assert faults.most == 1
    counts = json.loads((tmp_path / "set" / "provenance.json").read_text())["counts"]
    assert counts["dropped"] == {
        "the answer of another question": 1,
        "tokens do not spell the answer": 1,
        "no answer (refused or empty)": 1,
        "no log-probabilities": 1,
        "request failed (timed out)": 1,
    }
    # the one that got no reply is asked again, those that were paid for are not
    again = build_traces(questions, "tiny", **where | {"server": QUICK})
    assert again["example_id"] == ["q0", "q1", "q2", "q7"] and len(faults.requests) == 13


def test_a_server_without_log_probabilities_is_not_paid_for_more(server, questions, tmp_path):
    url, faults = server
    one_by_one = ServerSettings(concurrency=1)
    where = {"base_url": url, "server": one_by_one, "output_dir": tmp_path / "set"}
    faults.plan = dict.fromkeys(range(8), "no_logprobs")
    for _ in range(2):  # the same line again asks nothing
        with pytest.raises(InputError, match="the first 3 answers came without log-probabilities"):
            build_traces(questions, "tiny", **where)
        assert len(faults.requests) == 3
    asked = {(request["logprobs"], request["top_logprobs"]) for request in faults.requests}
    assert asked == {(True, 0)}  # llama-cpp-python gives none where the second is not said
    # where some have come they are rows that a server spoilt
    faults.plan = {3: None, **dict.fromkeys(range(4, 8), "no_logprobs")}
    where["output_dir"] = tmp_path / "other"
    assert len(build_traces(questions[:5], "tiny", **where)) == 1
    assert len(faults.requests) == 8


def test_a_server_that_refuses_stops_the_run_in_one_line(server, questions, tmp_path, monkeypatch):
    url, faults = server
    where = {"base_url": url, "server": ServerSettings(max_retries=0), "output_dir": tmp_path / "s"}
    faults.plan = dict.fromkeys(range(8), 401)
    with pytest.raises(InputError, match="refused with 401: .*; set OPENAI_API_KEY in") as told:
        build_traces(questions, "tiny", **where)
    assert KEY not in str(told.value) and "[key]" in str(told.value)
    faults.plan = dict.fromkeys(range(60), 500)
    with pytest.raises(InputError, match="refused with 500"):
        build_traces(questions, "tiny", **where)
    faults.plan = {}
    with pytest.raises(InputError, match="did not answer: connection failed"):
        build_traces(questions, "tiny", **where | {"base_url": "http://127.0.0.1:9/v1"})
    for secret in ("http://me:word@host/v1", "http://host/v1?api_key=a"):
        with pytest.raises(InputError, match="field base_url: a key has no place in it"):
            build_traces(questions, "tiny", **where | {"base_url": secret})
    with pytest.raises(InputError, match="field base_url: no address of a server"):
        build_traces(questions, "tiny", **where | {"base_url": "host:80"})
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(InputError, match=r"openai is not installed; pip install 'hf-proxy\[serv"):
        build_traces(questions, "tiny", **where)


def test_the_completions_api_samples_and_text_alone(server, questions, tmp_path):
    url, faults = server
    settings = ServerSettings(api="completions", input_price=1.0, output_price=2.0)
    built = build_traces(
        questions[:2], "tiny", base_url=url, server=settings, output_dir=tmp_path / "a",
        num_samples=2, temperature=0.5, max_new_tokens=64,
    )  # fmt: skip
    assert built["example_id"] == ["q0#0", "q0#1", "q1#0", "q1#1"]
    assert built["weighting"] == ["logprob"] * 4 and built["prompt"][0] == questions[0]["prompt"]
    assert len({request["seed"] for request in faults.requests}) == 4
    counts = json.loads((tmp_path / "a" / "provenance.json").read_text())["counts"]
    tokens = counts["prompt_tokens"], counts["completion_tokens"]
    assert counts["cost"] == pytest.approx((tokens[0] + 2 * tokens[1]) / 1e6)
    text = ServerSettings(
        logprobs=False, extra_body={"top_p": 1}, requests_per_minute=120, concurrency=3
    )
    began = time.monotonic()
    built = build_traces(
        questions[:2], "tiny", base_url=url, server=text, output_dir=tmp_path / "b"
    )
    assert time.monotonic() - began > 0.45  # two in a second
    assert built["weighting"] == ["none"] * 2 and not built["frontier_spans"][0]
    assert "logprobs" not in faults.requests[-1] and faults.requests[-1]["top_p"] == 1
    assert built["trace"][0] == f"We add.\nSo {questions[0]['answer']}."


def test_a_bad_format_is_asked_for_once_more(expert, questions, tmp_path, server):
    faults = Faults(ModelServer(*expert, scripts={"": "We add. So 3."}).app)
    with serving(faults) as url:
        with pytest.raises(InputError, match="no trace is left .*2 x bad format"):
            build_traces(questions[:2], "tiny", base_url=url, output_dir=tmp_path / "set")
        assert len(faults.requests) == 4
        with pytest.raises(InputError, match="bad format"):
            build_traces(questions[:2], "tiny", base_url=url, output_dir=tmp_path / "set")
        assert len(faults.requests) == 4


def test_the_thinking_of_a_model_that_thinks_first(
    expert, questions, tmp_path, server, monkeypatch
):
    monkeypatch.setenv("OPENAI_API_KEY", "EMPTY")  # no secret: it is a word of the answer's
    thinking = f"<think>We add EMPTY.</think>So \\boxed{{{questions[0]['answer']}}}."
    scripts = {questions[0]["prompt"]: thinking, questions[1]["prompt"]: "So 20."}
    with serving(ModelServer(*expert, scripts=scripts).app) as url:
        built = build_traces(
            questions[:2], "tiny", base_url=url, output_dir=tmp_path / "set", protocol="thinking"
        )
    assert built["trace"] == ["We add EMPTY."] and built["correct"] == [True]
    counts = json.loads((tmp_path / "set" / "provenance.json").read_text())["counts"]
    assert counts["dropped"] == {"no reasoning": 1}


def test_questions_of_every_kind_of_source(questions, tmp_path):
    """GSM8K and MATH-500 as they are published, and files of one's own."""
    gsm8k = [{"question": "1+1?", "answer": "1+1=<<1+1=2>>2\n#### 2"}]
    Dataset.from_list(gsm8k).to_parquet(str(tmp_path / "gsm8k.parquet"))
    config = BuildConfig(
        questions=str(tmp_path / "gsm8k.parquet"), question_set="gsm8k", frontier="a",
        output_dir="b",
    )  # fmt: skip
    assert config.settings().answer_pattern == "#### (.+)"
    own = {"question_column": None, "answer_column": None, "num_questions": None}
    rows, _ = load_questions(config.questions, known="gsm8k", **own)
    assert rows.to_list() == [{"prompt": "1+1?", "answer": gsm8k[0]["answer"]}]
    assert read_questions(rows, answer_pattern="#### (.+)")[0].gold[0] == 2
    math = {"problem": "2+2?", "solution": "It is 4.", "answer": "4", "unique_id": "test/1.json"}
    Dataset.from_list([math, math | {"unique_id": "b"}]).save_to_disk(str(tmp_path / "math"))
    rows, _ = load_questions(str(tmp_path / "math"), known="math500", **own | {"num_questions": 1})
    assert rows.to_list() == [{"prompt": "2+2?", "example_id": "test/1.json", "answer": "4"}]
    with pytest.raises(InputError, match="field questions: it is missing"):
        load_questions(None, known=None, **own)
    with pytest.raises(InputError, match="field question: there is no such column"):
        load_questions(str(tmp_path / "math"), known=None, **own)
    with pytest.raises(InputError, match="row 0, field prompt: expected text, found None"):
        read_questions([{"prompt": None}])


def test_a_killed_run_asks_nothing_twice(server, shared, tmp_path, capsys):
    """Killed for real while it asks; then the same line goes on."""
    url, faults = server
    source = tmp_path / "questions.jsonl"
    source.write_text("".join(json.dumps({"question": f"Item {n}?"}) + "\n" for n in range(40)))
    line = [
        *["traces", "build", "--questions", source, "--frontier", "tiny", "--base_url", url],
        *["--concurrency", 2, "--protocol", "text", "--output_dir", tmp_path / "set"],
    ]
    shards = responses_of(tmp_path / "set") / "shards"

    def some_are_there():
        return shards.is_dir() and len(list(shards.glob("*.jsonl"))) > 4

    code = "from hf_proxy.cli import main; import sys; sys.exit(main(sys.argv[1:]))"
    (tmp_path / "line.py").write_text(code)
    Forked(shared, tmp_path / "line.py", *line).kill_once(some_are_there)
    before = written_bytes(shards)
    num_asked = len(faults.requests)
    assert 4 < len(before) <= num_asked < 40
    code, said, found = command(capsys, *line, "--json")
    assert code == 0, said.err
    # of what was asked and not stored there are at most as many as were under way
    assert len(faults.requests) - num_asked == 40 - len(before) and num_asked - len(before) <= 2
    after = written_bytes(shards)
    assert {path: after[path] for path in before} == before
    assert found["counts"]["replies"] == 40


def test_the_batch_api_by_files(server, questions, tmp_path, capsys):
    url, faults = server
    source = tmp_path / "questions.csv"
    Dataset.from_list(questions).to_csv(str(source))
    line = [
        *["traces", "build", "--questions", source, "--question_column", "prompt"],
        *["--answer_column", "answer", "--frontier", "tiny", "--base_url", url],
        *["--output_dir", tmp_path / "set", "--json"],
    ]
    code, said, found = command(capsys, *line, "--batch_input", tmp_path / "in.jsonl")
    assert code == 0 and found["requests"] == 8 and not faults.requests
    requests = [json.loads(line) for line in (tmp_path / "in.jsonl").read_text().splitlines()]
    assert requests[0]["custom_id"] == "q0" and requests[0]["url"] == "/v1/chat/completions"
    direct = build_traces(questions, "tiny", base_url=url, output_dir=tmp_path / "direct")
    bodies = {
        row["example_id"]: json.loads(row["body"])
        for path in (responses_of(tmp_path / "direct") / "shards").iterdir()
        for row in map(json.loads, path.read_text().splitlines())
    }
    lines = [
        {"custom_id": name, "response": {"status_code": 200, "body": body}, "error": None}
        for name, body in bodies.items()
    ]
    lines[3] = lines[3] | {"response": {"status_code": 400, "body": {}}, "error": {"code": "x"}}
    output = tmp_path / "out.jsonl"
    output.write_text("".join(json.dumps(line) + "\n" for line in lines[:7]))
    num_asked = len(faults.requests)
    code, said, found = command(capsys, *line, "--batch_output", output)
    assert code == 0, said.err
    assert len(faults.requests) == num_asked
    assert found["counts"]["dropped"] == {
        "request failed (400)": 1,
        "not in the batch's output": 1,
    }
    names = set(bodies) - {lines[3]["custom_id"], lines[7]["custom_id"]}
    expected = [row for row in rows_of(direct) if row["example_id"] in names]
    assert rows_of(load_traces(tmp_path / "set")) == [
        {k: v for k, v in row.items() if k != "correct"} for row in expected
    ]
    output.write_text(json.dumps(lines[0] | {"custom_id": "other"}) + "\n")
    code, said, _ = command(capsys, *line, "--batch_output", output, "--overwrite")
    assert code == 2 and "row 0, field custom_id: none of these questions" in said.err
    local_line = ["traces", "build", "--frontier", EXPERT, "--questions", source]
    local_line += ["--output_dir", tmp_path / "other", "--batch_input", tmp_path / "in.jsonl"]
    code, said, _ = command(capsys, *local_line)
    assert (
        code == 2
        and "field batch_input: only a served frontier has it; give base_url, or leave it out"
        in said.err
    )


# probabilities of given text from a server


@pytest.fixture(scope="module")
def solutions(questions):
    traces = [
        {
            "example_id": q["example_id"],
            "prompt": q["prompt"] + " €",
            "trace": f"First, 2+3=5 é. So €{n}.",
        }
        for n, q in enumerate(questions[:5])
    ]
    blank = {"weighting": "none", "frontier_spans": [], "frontier_logprobs": []}
    return Dataset.from_list([row | blank for row in traces])


@pytest.mark.parametrize("how", ["prompt_logprobs", "echo"])
def test_a_servers_probabilities_of_given_text_are_those_of_a_local_pass(
    how, server, expert, solutions, tmp_path
):
    url, faults = server
    expected = annotate_traces(solutions, *expert)
    where = {"base_url": url, "how": how, "responses_dir": tmp_path / "raw"}
    found = annotate_traces(solutions, "tiny", **where)
    assert len(expected[0]["frontier_spans"]) > 10  # a letter is cut into its bytes
    assert found.features == expected.features and len(found) == 5
    for row, own in zip(found, expected, strict=True):
        values = row.pop("frontier_logprobs"), own.pop("frontier_logprobs")
        np.testing.assert_allclose(*values, atol=1e-5)
        assert row == own
    assert found[0]["trace"] == solutions[0]["trace"] and "\u20ac" in solutions[0]["prompt"]
    num_asked = len(faults.requests)
    assert rows_of(annotate_traces(solutions, "tiny", **where)) == rows_of(found)
    assert len(faults.requests) == num_asked + 3  # the proof


@pytest.mark.parametrize("echo_at", ["late", "early", "own"])
def test_an_echo_off_by_one_is_named_and_mended_where_that_is_exact(
    echo_at, server, expert, solutions
):
    faulty = ModelServer(*expert, scores=("echo",), echo_at=echo_at)
    with serving(faulty.app) as url:
        if echo_at == "own":
            with pytest.raises(InputError, match="off by one token: .* cannot be moved back"):
                annotate_traces(solutions, "tiny", base_url=url)
            return
        shift = 1 if echo_at == "late" else -1
        with pytest.raises(InputError, match=f"one place {echo_at}; pass --echo_shift {shift}"):
            annotate_traces(solutions, "tiny", base_url=url)
        found = annotate_traces(solutions, "tiny", base_url=url, echo_shift=shift)
    expected = annotate_traces(solutions, *expert)
    for row, own in zip(found, expected, strict=True):
        np.testing.assert_allclose(row["frontier_logprobs"], own["frontier_logprobs"], atol=1e-5)


def test_a_server_is_refused_that_scores_no_text_or_needs_no_shift(server, expert, solutions):
    url, _ = server
    with pytest.raises(InputError, match="values stand at their own tokens; leave echo_shift out"):
        annotate_traces(solutions, "tiny", base_url=url, how="echo", echo_shift=1)
    with serving(ModelServer(*expert, scores=()).app) as mute:
        with pytest.raises(InputError, match="scores no text that it is given .*vLLM"):
            annotate_traces(solutions, "tiny", base_url=mute)
    with pytest.raises(InputError, match="chat template of a served model is not known"):
        annotate_traces(solutions, "tiny", base_url=url, context="chat")
    with pytest.raises(InputError, match="field frontier: with base_url"):
        annotate_traces(solutions, expert[0], base_url=url)
    with pytest.raises(InputError, match="field frontier: a local frontier is a model"):
        annotate_traces(solutions, "tiny")


def test_what_is_found_of_a_server_is_told(server, expert, solutions):
    def proof(how, **options):
        with serving(ModelServer(*expert, **options).app) as url:
            asked = Server(url, "tiny", QUICK)
            found = annotate_by_server(solutions, asked, context="{prompt}\n", how=how)
        values = [row["frontier_logprobs"] for row in found.traces]
        return found.proof, values

    end = expert[1].eos_token_id
    plain, values = proof("echo")
    assert plain.how == "echo" and plain.shift == 0 and plain.largest_difference < 1e-4
    assert plain.first_is_null and not plain.adds_bos and not plain.moves_with_temperature
    hidden, _ = proof("prompt_logprobs")
    assert hidden.first_is_null and not hidden.adds_bos
    assert proof("echo", bos=end)[0].adds_bos and proof("prompt_logprobs", bos=end)[0].adds_bos
    tempered, same = proof("echo", tempered=True)
    assert tempered.moves_with_temperature and same == values  # asked at 1


def test_a_bos_of_the_servers_own_and_borders_inside_tokens(server, expert, solutions):
    model, tokenizer = expert
    with serving(ModelServer(*expert, bos=tokenizer.eos_token_id).app) as url:
        found = annotate_traces(solutions, "tiny", base_url=url)
    first = solutions[0]
    context = tokenizer(first["prompt"] + "\n", add_special_tokens=False)["input_ids"]
    ids = tokenizer(first["trace"], add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        logits = model(torch.tensor([[tokenizer.eos_token_id, *context, *ids]])).logits[0].double()
    at = torch.arange(len(ids)) + len(context)
    expected = torch.log_softmax(logits, -1)[at, torch.tensor(ids)]
    np.testing.assert_allclose(found[0]["frontier_logprobs"], expected, atol=1e-5)
    with serving(ModelServer(*expert, bos=tokenizer.eos_token_id).app) as url:
        for how in ("prompt_logprobs", "echo"):
            doubled = {"context": "<|end|>{prompt}\n", "how": how}
            with pytest.raises(InputError, match="a token of its own before .*add_special_tokens"):
                annotate_traces(solutions, "tiny", base_url=url, **doubled)
    # context and trace cut apart by us, together by the server
    url, _ = server
    glued = solutions.map(lambda row: {"trace": "us 2 + 3 = 5."})
    with pytest.raises(InputError, match="no trace is left; .*the end of the context and the tr"):
        annotate_traces(glued, "tiny", base_url=url, context="{prompt} pl")


def test_the_path_of_a_first_time_user(server, expert, questions, tmp_path, capsys):
    """Questions to a score in three commands; then the same text by a server's probabilities."""
    url, _ = server
    source = tmp_path / "questions.jsonl"
    Dataset.from_list(questions).rename_column("prompt", "question").to_json(str(source))
    ask = ["--frontier", "tiny", "--base_url", url]
    build = ["traces", "build", "--questions", source, "--answer_column", "answer", *ask]
    code, said, found = command(capsys, *build, "--output_dir", tmp_path / "set", "--json")
    assert code == 0, said.err
    assert found["counts"] | {"dropped": {}} == found["counts"]
    assert "answers 7 right, 1 wrong" in said.out
    assert command(capsys, "traces", "check", "--source", tmp_path / "set")[0] == 0
    score = ["score", "--models", EXPERT, "--traces", tmp_path / "set", "--json"]
    code, said, found = command(capsys, *score)
    assert code == 0 and found["scores"][0]["num_traces"] == 8
    annotate = ["traces", "annotate", "--source", tmp_path / "set", *ask]
    code, said, found = command(capsys, *annotate, "--output_dir", tmp_path / "annotated", "--json")
    assert code == 0 and found["counts"]["kept"] == 8 and found["proof"]["shift"] == 0
    assert "proved by" in said.out
    for flags, problem in (
        (["--dtype", "float32"], "field dtype: only a local frontier has it"),
        (["--extra_body", "[1]"], "field extra_body: '[1]' is no JSON object"),
    ):
        code, said, _ = command(capsys, *annotate, "--output_dir", tmp_path / "other", *flags)
        assert code == 2 and problem in said.err
    code, said, _ = command(
        capsys, "traces", "annotate", "--source", tmp_path / "set", "--frontier", EXPERT,
        "--output_dir", tmp_path / "other", "--how", "echo",
    )  # fmt: skip
    assert code == 2 and "field how: only a served frontier has it" in said.err
