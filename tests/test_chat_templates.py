"""Chat templates through commands, callbacks and functions: dates, and arguments of their own."""

import json

import pytest
from helpers.mining import PROMPTS, mine, with_controls
from helpers.models import sharp_pair
from test_cli import CLASSES, command

from hf_proxy import InputError, align_traces, annotate_traces, load_soft_targets
from hf_proxy.callbacks import ContrastCallback, ProxyScoreCallback
from hf_proxy.recipes import closed_loop
from hf_proxy.recipes.library.flags import RecipeParser

# as Llama 3.1 prints the date, and Qwen3 is told not to think
DATED = "{{ date_string or strftime_now('%f') }} {{ messages[-1].content }}\n"
THINKS = (
    "{% for m in messages %}{{ m.content }}\n{% endfor %}"
    "{% if enable_thinking is defined and not enable_thinking %}no thought\n{% endif %}"
)
OFF = {"enable_thinking": False}
RENDER_CHATS = ("score", "accuracy", "loop", "contrast mine", "contrast foretell")
RENDER_CHATS += ("traces annotate", "traces build")


@pytest.fixture(scope="module")
def with_template(tokenizer):
    def make(template):
        made = with_controls(tokenizer, [])
        made.chat_template = template
        return made

    return make


@pytest.fixture
def folder(tmp_path, with_template, traces, monkeypatch):
    """Models of both templates, traces and problems."""
    for name, template in (("dated", DATED), ("thinks", THINKS)):
        tokenizer = with_template(template)
        expert, amateur = sharp_pair(len(tokenizer))
        for role, model in (("expert", expert), ("amateur", amateur)):
            model.save_pretrained(tmp_path / name / role)
            tokenizer.save_pretrained(tmp_path / name / role)
    traces.select(range(4)).to_json(str(tmp_path / "traces.jsonl"))
    rows = [{"prompt": p, "question": p, "answer": "2"} for p in PROMPTS[:3]]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.setattr("hf_proxy.records.storage.cache_dir", lambda: tmp_path / "cache")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def scored(capsys, model, *more):
    line = ("score", "--models", model, "--traces", "traces.jsonl", "--context", "chat", "--json")
    code, said, found = command(capsys, *line, *more)
    assert code == 0, said.err
    (score,) = found["scores"]
    return score["setting"], score["value"], score["cached"]


def test_one_setting_has_one_number(folder, capsys):
    one, other = scored(capsys, "dated/expert"), scored(capsys, "dated/expert")
    assert one[0] != other[0] and one[1] != other[1] and not other[2]
    fixed = ("--chat_template_kwargs", '{"date_string": "26 Jul 2024"}')
    one, other = (scored(capsys, "dated/expert", *fixed) for _ in "ab")
    assert one[:2] == other[:2] and other[2]  # from the cache
    # an argument that a template reads, on the line and in YAML
    plain = scored(capsys, "thinks/expert")
    off = scored(capsys, "thinks/expert", "--chat_template_kwargs", json.dumps(OFF))
    assert plain[0] != off[0] and plain[1] != off[1] and not off[2]
    (folder / "off.yaml").write_text("chat_template_kwargs: {enable_thinking: false}\n")
    assert scored(capsys, "thinks/expert", "--config", "off.yaml") == (*off[:2], True)


def test_every_command_that_renders_a_chat_has_the_flag():
    having = {
        name
        for name, (own, *_) in CLASSES.items()
        if "chat_template_kwargs" in own.__dataclass_fields__
    }
    assert having == set(RENDER_CHATS)
    for name in having:
        (config,) = RecipeParser(CLASSES[name][:1], prog=name).parse(
            ["--chat_template_kwargs", '{"a": {"b": [1, null]}}', *_needed(name)]
        )
        assert config.chat_template_kwargs == {"a": {"b": [1, None]}}


def _needed(name):
    return {
        "score": ["--models", "m", "--traces", "t"],
        "accuracy": ["--models", "m", "--problems", "p", "--output_dir", "o"],
        "loop": ["--amateur", "a", "--prompts", "p", "--traces", "t"]
        + ["--num_prompts", "1", "--mine_steps", "1"],
        "contrast foretell": ["--expert", "e", "--amateur", "a", "--problems", "p"]
        + ["--output_dir", "o"],
        "contrast mine": ["--expert", "e", "--amateur", "a", "--prompts", "p", "--output_dir", "o"],
        "traces annotate": ["--source", "s", "--frontier", "f", "--output_dir", "o"],
        "traces build": ["--questions", "q", "--frontier", "f", "--output_dir", "o"],
    }[name]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--chat_template_kwargs", "{enable"], "--chat_template_kwargs: '{enable' is no JSON"),
        (["--chat_template_kwargs", "[1]"], "--chat_template_kwargs: '[1]' is no mapping"),
        (["--chat_template_kwargs", '{"thinking": 1}'], "does not read it, only enable_thinking"),
        (["--chat_template_kwargs", '{"messages": 1}'], "kwargs messages: it is set here"),
        (["--context", "{prompt}", "--chat_template_kwargs", '{"a": 1}'], "no chat template under"),
        (["--config", "list.yaml"], "list.yaml, field chat_template_kwargs: expected one value"),
        (["--config", "word.yaml"], "word.yaml, field chat_template_kwargs: 'off' is no JSON"),
    ],
)
def test_arguments_that_would_do_nothing_are_refused_in_one_line(folder, capsys, more, message):
    (folder / "list.yaml").write_text("chat_template_kwargs: [enable_thinking]\n")
    (folder / "word.yaml").write_text("chat_template_kwargs: off\n".replace("off", "'off'"))
    line = ("score", "--models", "thinks/expert", "--traces", "traces.jsonl", "--context", "chat")
    code, said, _ = command(capsys, *line, *more)
    assert code == 2 and message in said.err and len(said.err.splitlines()) == 1


def test_accuracy_asks_with_the_arguments(folder, capsys):
    line = ["accuracy", "--models", "thinks/expert", "--problems", "rows.jsonl"]
    line += ["--max_new_tokens", "4", "--output_dir", "o", "--system_prompt", ""]
    found = []
    for more in ([], ["--chat_template_kwargs", json.dumps(OFF)]):
        code, said, _ = command(capsys, *line, *more)
        assert code == 0, said.err
        found.append(json.loads((folder / "o" / "results.json").read_text())["provenance"])
    assert found[0]["prompts"] != found[1]["prompts"]
    assert found[1]["settings"]["chat_template_kwargs"] == OFF
    assert len(list((folder / "o" / "generations").iterdir())) == 2


def test_mining_reads_with_the_arguments_and_records_them(with_template, tmp_path):
    tokenizer = with_template(THINKS)
    pair = sharp_pair(len(tokenizer))
    chat = {"context": "chat", "system_prompt": None, "prompts": PROMPTS[:2]}
    plain = mine(pair, tokenizer, tmp_path / "plain", **chat)
    off = mine(pair, tokenizer, tmp_path / "off", chat_template_kwargs=OFF, **chat)
    for row, text in ((plain[0], ""), (off[0], "no thought\n")):
        prompt = tokenizer.decode(row["input_ids"][: row["prompt_length"]])
        assert prompt == f"{PROMPTS[0]}\n{text}"
    records = [json.loads((tmp_path / n / "mining.json").read_text()) for n in ("plain", "off")]
    assert "chat_template_kwargs" not in records[0]  # as an older version wrote it
    assert records[1]["chat_template_kwargs"] == OFF
    with pytest.raises(InputError, match="another text of them by the same template"):
        mine(pair, tokenizer, tmp_path / "off", **chat)
    assert load_soft_targets(tmp_path / "off").to_dict() == off.to_dict()


def test_a_folder_is_not_gone_on_with_on_another_day(with_template, tmp_path):
    tokenizer = with_template(DATED)
    pair = sharp_pair(len(tokenizer))
    chat = {"context": "chat", "prompts": PROMPTS[:2]}
    mine(pair, tokenizer, tmp_path / "a", **chat)
    with pytest.raises(InputError, match=r"another text of them by the same template \(a date"):
        mine(pair, tokenizer, tmp_path / "a", **chat)
    fixed = chat | {"chat_template_kwargs": {"date_string": "26 Jul 2024"}}
    mine(pair, tokenizer, tmp_path / "b", **fixed)
    mine(pair, tokenizer, tmp_path / "b", **fixed)


def test_functions_and_callbacks_render_alike(with_template, traces):
    tokenizer = with_template(THINKS)
    few = traces.select(range(2))
    aligned = align_traces(few, tokenizer, context="chat", chat_template_kwargs=OFF)
    row = aligned[0]
    text = tokenizer.decode(row["input_ids"][: row["label_start"]])
    assert text == f"{few[0]['prompt']}\nno thought\n"
    score = ProxyScoreCallback(
        few, processing_class=tokenizer, context="chat", chat_template_kwargs=OFF
    )
    assert score._alignments()["rbridge"]["setting_parts"] == aligned["setting_parts"]
    expert, amateur = sharp_pair(len(tokenizer))
    contrast = ContrastCallback(
        amateur,
        PROMPTS[:1],
        num_prompts=1,
        processing_class=tokenizer,
        amateur_processing_class=tokenizer,
        system_prompt=None,
        chat_template_kwargs=OFF,
    )
    _, prompts = contrast._open_miner(expert)
    assert tokenizer.decode(prompts.input_ids[0]) == f"{PROMPTS[0]}\nno thought\n"
    chat = {"context": "chat", "chat_template_kwargs": OFF}
    plain = annotate_traces(few, expert, tokenizer, context="chat")
    off = annotate_traces(few, expert, tokenizer, **chat)
    by_text = annotate_traces(few, expert, tokenizer, context="{prompt}\nno thought\n")
    assert off["frontier_logprobs"] == by_text["frontier_logprobs"] != plain["frontier_logprobs"]


@pytest.mark.parametrize(
    ("trace_context", "prompt_context", "expected"),
    [
        ("chat", "chat", (OFF, OFF)),
        ("chat", "{prompt}", (OFF, None)),
        ("{prompt}", "chat", (None, OFF)),
        ("{prompt}", "{prompt}", (None, OFF)),  # which the mining refuses by name
    ],
)
def test_the_loop_gives_them_to_every_chat(trace_context, prompt_context, expected):
    found = closed_loop.kwargs_of_chats(OFF, trace_context, prompt_context)
    assert found == expected
    assert closed_loop.kwargs_of_chats(None, trace_context, prompt_context) == (None, None)
