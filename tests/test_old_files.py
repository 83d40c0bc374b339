"""Files that 0.1.0 wrote before its records had models: each is read, and says what it said."""

import json
import math
import shutil

import pyarrow as pa
import pytest
from hostile import KINDS, OLD_FILES, command, judged, prepare

from hf_proxy import Curve, InputError, load_soft_targets, load_traces
from hf_proxy.callbacks.prediction_log import PredictionLog
from hf_proxy.records.storage import save_dataset
from hf_proxy.report.reading import read_run

MADE_ANEW = [name for name, kind in KINDS.items() if kind.home is not None]


def test_traces_of_every_kind_are_the_same_rows():
    lines = (OLD_FILES / "traces.jsonl").read_text().splitlines()
    expected = [json.loads(line) for line in lines]
    for name in ("traces.jsonl", "traces.json", "traces.parquet", "traces"):
        assert load_traces(OLD_FILES / name).to_list() == expected, name
    assert load_traces(OLD_FILES / "text.jsonl")["trace"] == [row["trace"] for row in expected]


def test_a_curve_a_run_and_a_set_say_what_they_said():
    curve = Curve.load(OLD_FILES / "curve.json")
    written = json.loads((OLD_FILES / "curve.json").read_text())
    for run in (None, "another"):  # what it said when it was written, of any run
        found = curve.predict(0.2703974334116586, run=run)
        assert [found.value, found.low, found.high] == pytest.approx(
            [0.10442051355013315, 0.01149294664186637, 0.19734808045839994], rel=1e-12
        )
    assert list(curve.fits[0].parameters) == written["fits"][0]["parameters"]
    assert (
        curve.statistics.controls["mean"].test_mae
        == (written["statistics"]["controls"]["mean"]["test_mae"])
    )
    (run,) = read_run(OLD_FILES / "run", num_rows=3)
    assert [line["step"] for line in run.scores] == list(range(7))
    assert [line["step"] for line in run.contrast] == [0, 3, 6]
    assert run.steps_saved == [6] and run.notes == [] and len(run.mined.rows) == 3
    rows = load_soft_targets(OLD_FILES / "mined")
    shards = sorted((OLD_FILES / "mined" / "shards").iterdir())
    tables = [pa.ipc.open_stream(shard.read_bytes()).read_all() for shard in shards]
    assert rows.to_list() == pa.concat_tables(tables).to_pylist()


def test_a_log_goes_on_byte_for_byte(tmp_path):
    path = tmp_path / "predictions.jsonl"
    shutil.copy(OLD_FILES / "run" / "hf_proxy" / "predictions.jsonl", path)
    before = path.read_bytes().split(b"\n")
    log = PredictionLog(path)
    assert log.open(4) == 688
    assert path.read_bytes().split(b"\n") == [*before[:5], b""]
    assert log.run_id == json.loads(before[0])["run_id"]
    log.append({"name": "rbridge", "step": 5, "tokens_seen": 700})
    assert log.count_before(6) == 6
    with pytest.raises(ValueError, match="not JSON compliant"):
        log.append({"name": "rbridge", "step": 6, "tokens_seen": 700, "value": math.nan})
    path.write_bytes(path.read_bytes() + b'{"name": "rbridge", "step": "7"}\n')
    with pytest.raises(
        InputError, match=r"predictions.jsonl, line 7, field step: expected a whole"
    ):
        log.lines()


@pytest.mark.parametrize("name", [name for name in KINDS if name not in MADE_ANEW])
def test_every_kind_is_read(tmp_path, name):
    prepare(KINDS[name], tmp_path)
    assert judged(KINDS[name], tmp_path / "base") == ("right", "")


@pytest.fixture(scope="module")
def mined(tmp_path_factory):
    """A set as it is written today."""
    folder = tmp_path_factory.mktemp("mined")
    prepare(KINDS["mined set"], folder)
    return folder / "base" / "mined"


def test_a_flipped_bit_of_a_shard_is_named_wherever_it_is(mined, tmp_path):
    expected = load_soft_targets(mined).to_list()
    shutil.copytree(mined, tmp_path / "mined")
    shard = tmp_path / "mined" / "shards" / "000001.arrow"
    data = shard.read_bytes()
    for place in range(0, len(data), len(data) // 40):
        changed = bytearray(data)
        changed[place] ^= 1
        shard.write_bytes(changed)
        with pytest.raises(InputError, match=r"000001.arrow: it is not as it was written"):
            load_soft_targets(tmp_path / "mined")
    shard.write_bytes(data)
    assert load_soft_targets(tmp_path / "mined").to_list() == expected
    line = (shard.parent / "000001.arrow.sha256").read_text()
    assert line.endswith("  000001.arrow\n")  # as sha256sum -c reads it


def test_a_shard_without_its_checksum_is_an_older_one(mined, tmp_path):
    shutil.copytree(mined, tmp_path / "mined")
    for path in (tmp_path / "mined" / "shards").glob("*.sha256"):
        path.unlink()
    assert load_soft_targets(tmp_path / "mined").to_list() == load_soft_targets(mined).to_list()


def test_numbers_of_a_set_that_its_shards_do_not_bear_out(mined, tmp_path):
    shutil.copytree(mined, tmp_path / "mined")
    path = tmp_path / "mined" / "mining.json"
    content = json.loads(path.read_text())
    for number, message in (
        (3, r"mining.json, field num_prompts: 3 in batches of 2, but 4 rows in 2 shards"),
        (2_000_000_000, r"mined: 999999998 of 1000000000 batches are missing, the first 000002"),
        (
            10**30,
            r"mining.json, field num_prompts: expected at most 9007199254740992",
        ),
    ):
        path.write_text(json.dumps(content | {"num_prompts": number}))
        with pytest.raises(InputError, match=message):
            load_soft_targets(tmp_path / "mined")


def test_a_flipped_byte_of_a_saved_set_is_named(tmp_path):
    save_dataset(load_traces(OLD_FILES / "traces.jsonl"), tmp_path / "set", {})
    (path,) = (tmp_path / "set").glob("*.arrow")
    data = bytearray(path.read_bytes())
    data[data.index(b"How many") + 1] ^= 1
    path.write_bytes(data)
    with pytest.raises(InputError, match="arrow: it is not as it was written"):
        load_traces(tmp_path / "set")


def test_a_command_says_no_more_than_its_line(tmp_path):
    (tmp_path / "curve.json").write_text('{"fits": [{"form": "cubic"}]}')
    with pytest.raises(InputError, match="curve.json: form, left_out, .*missing"):
        command("predict", "--curves", str(tmp_path / "curve.json"), "--scores", "1")
