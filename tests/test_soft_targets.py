"""Figures of a set: by hand, merged in any way, equal in metric and command."""

import json

import evaluate
import numpy as np
import pytest
from helpers.mining import PROMPTS, mine
from helpers.models import sharp_pair

from hf_proxy import InputError, load_metric
from hf_proxy.cli import main
from hf_proxy.mining.soft_targets import Tally, check_soft_targets, tally_rows


def make_row(**changes):
    """Four steps: agree and dropped; differ, kept, one token; agree, kept, flip; differ, kept."""
    row = {
        "example_id": "a",
        "input_ids": [1, 2, 3, 10, 11, 12, 13],
        "prompt_length": 3,
        "kl": [0.1, 2.0, 0.5, 3.0],
        "top1_agree": [True, False, True, False],
        "expert_entropy": [0.5] * 4,
        "amateur_entropy": [1.0] * 4,
        "support_size": [1, 1, 2, 12],
        "position": [4, 5, 6],
        "offset": [0, 1, 3, 15],
        "token_id": [7, 8, 9, *range(20, 32)],
        "prob": [1.0, 0.2, 0.8, *[1 / 12] * 12],
        "expert_logprob": [-0.1, -0.5, -1.2, *np.linspace(-2, -3, 12)],
        "amateur_logprob": [-1.0, -0.5, -3.0, *[-4.0] * 12],
    }
    return row | changes


def test_figures_by_hand():
    found = tally_rows([make_row()]).statistics()
    expected = {
        "num_rows": 1,
        "num_steps": 4,
        "num_kept": 3,
        "num_ended_at_once": 0,
        "kept_share": 0.75,
        "kl_mean": 5.6 / 4,
        "kl_mean_agree": 0.3,
        "kl_mean_differ": 2.5,
        "top1_agreement": 0.5,
        "agree_kept_share": 0.5,
        "support_size": 5.0,
        "one_token_share": 1 / 3,
        "one_token_share_all": 0.5,
        "flip_rate": 1 / 3,
        "flat_share": 1 / 3,
        "echo_share": 0.0,
    }
    assert found == pytest.approx(expected)


def test_tallies_add_up_whatever_the_order():
    rows = [
        make_row(),
        make_row(kl=[0.2, 1.0, 0.7, 0.4]),
        make_row(prob=[1.0, 0.9, 0.1] + [0] * 12),
    ]
    whole = tally_rows(rows)
    parts = sum(tally_rows([row]).to_array() for row in rows[::-1])
    assert Tally.from_array(parts).statistics() == pytest.approx(whole.statistics())
    assert isinstance(Tally.from_array(parts).num_rows, int)


def test_a_share_of_nothing_is_none():
    nothing = {name: [] for name in ("position", "token_id", "prob", "expert_logprob")}
    row = make_row(**nothing, offset=[0], amateur_logprob=[], top1_agree=[True] * 4)
    found = tally_rows([row]).statistics()
    assert found["kept_share"] == 0
    for name in ("kl_mean_differ", "support_size", "flip_rate", "one_token_share"):
        assert found[name] is None


BAD = {
    "kl": {"kl": [0.1, 0.2]},
    "prompt_length": {"prompt_length": 9},
    "position": {"position": [4, 4, 6]},
    "offset": {"offset": [0, 1, 1, 15]},
    "prob": {"prob": [1.0]},
    "support_size": {"support_size": [1]},
}


@pytest.mark.parametrize("field", BAD)
def test_rows_whose_columns_do_not_fit_are_named(field):
    with pytest.raises(InputError, match=f"row a, field {field}"):
        check_soft_targets(make_row(**BAD[field]))


def test_the_metric_gives_the_sets_own_figures(tokenizer, tmp_path):
    rows = mine(sharp_pair(len(tokenizer)), tokenizer, tmp_path / "set", temperature=1.0)
    theirs = json.loads((tmp_path / "set" / "statistics.json").read_text())
    assert theirs["num_kept"] > 0
    for metric in (load_metric("contrast"), evaluate.load("hf_proxy/metrics/contrast")):
        found = metric.compute(predictions=rows.to_list())
        assert found == {name: theirs[name] for name in found}
        assert {"kept_share", "kl_mean", "top1_agreement", "support_size", "flip_rate"} <= set(
            found
        )
    with pytest.raises((InputError, ValueError)):
        load_metric("contrast").compute(predictions=[])


@pytest.fixture
def folder(tokenizer, tmp_path):
    for name, model in zip(("expert", "amateur"), sharp_pair(len(tokenizer)), strict=True):
        model.save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
    rows = [json.dumps({"question": prompt}) + "\n" for prompt in PROMPTS]
    (tmp_path / "questions.jsonl").write_text("".join(rows))
    return tmp_path


def command(folder, *more):
    return [
        *("contrast", "mine", "--expert", str(folder / "expert")),
        *("--amateur", str(folder / "amateur"), "--prompts", str(folder / "questions.jsonl")),
        *("--prompt_column", "question", "--output_dir", str(folder / "set")),
        *("--context", "{prompt}\\n", "--max_new_tokens", "8", "--batch_size", "2", *more),
    ]


def test_the_commands(folder, tokenizer, capsys):
    assert main(command(folder, "--num_prompts", "3", "--json")) == 0
    said = capsys.readouterr().out
    found = json.loads(said.splitlines()[-1])
    assert "3 rows in" in said and found["statistics"]["num_rows"] == 3
    expected = mine(
        sharp_pair(len(tokenizer)), tokenizer, folder / "alone", PROMPTS[:3], max_new_tokens=8
    )
    from hf_proxy import load_soft_targets

    assert load_soft_targets(folder / "set").to_dict() == expected.to_dict()
    facts = json.loads((folder / "set" / "provenance.json").read_text())["facts"]
    assert facts["expert"] == str(folder / "expert")

    assert main(["contrast", "show", "--source", str(folder / "set"), "--num_rows", "1"]) == 0
    said = capsys.readouterr().out
    assert "kept_share" in said and "1.99" in said
    page, figure = folder / "page.html", folder / "figure"
    arguments = ["contrast", "show", "--source", str(folder / "set"), "--example_ids", "2"]
    assert main([*arguments, "--page", str(page), "--figure", str(figure)]) == 0
    assert "<script" not in page.read_text() and figure.with_suffix(".png").exists()


def test_the_commands_refuse_in_one_line(folder, capsys):
    cases = [
        (
            command(folder, "--num_prompts", "1")[:-2] + ["--divergence_beta", "-1"],
            "divergence_beta",
        ),
        (command(folder, "--prompt_column", "text"), "no such column; it has ['question']"),
        (["contrast", "show", "--source", str(folder)], "no folder of soft targets"),
    ]
    for arguments, message in cases:
        assert main(arguments) == 2
        said = capsys.readouterr().err
        assert message in said and len(said.splitlines()) == 1
    assert main(["contrast"]) == 2
    assert main(command(folder)) == 0
    assert main(command(folder, "--divergence_beta", "0.7")) == 2
    assert "mined with other divergence_beta (0.4, now 0.7)" in capsys.readouterr().err
    assert main(["contrast", "show", "--source", str(folder / "set"), "--example_ids", "z"]) == 2
