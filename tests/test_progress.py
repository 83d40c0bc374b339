"""Long work tells how far it is: a bar on a terminal, lines in a file; Ctrl-C says how to go on."""

import io
import json
import os
import signal
import sys
import threading
import time
import warnings
from dataclasses import dataclass

import pytest
from helpers.processes import command

from hf_proxy.cli import COMMANDS, main
from hf_proxy.models.rounds import Written, write_in_rounds
from hf_proxy.recipes.library.help_text import Host
from hf_proxy.recipes.library.running import RecipeConfig, run
from hf_proxy.records import progress
from hf_proxy.records.progress import Progress, told_after


class Stream(io.StringIO):
    def __init__(self, is_terminal):
        super().__init__()
        self.isatty = lambda: is_terminal


@pytest.fixture
def clock(monkeypatch):
    """Seconds, which pass only where a test says so."""
    seconds = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: seconds[0])
    return seconds


def test_a_file_gets_a_line_each_half_minute(monkeypatch, clock):
    stream = Stream(False)
    monkeypatch.setattr("sys.stderr", stream)
    with Progress(6000, "Scoring", "tokens", done=1000) as told:
        for _ in range(25):  # 100 tokens in 4 seconds
            clock[0] += 4
            told.update(100)
    assert stream.getvalue().splitlines() == [
        # after 32, 64 and 96 seconds, 25 tokens a second without those that were there already
        "Scoring: 1,800 of 6,000 tokens (30%), 25 tokens/s, 02:48 left",
        "Scoring: 2,600 of 6,000 tokens (43%), 25 tokens/s, 02:16 left",
        "Scoring: 3,400 of 6,000 tokens (57%), 25 tokens/s, 01:44 left",
    ]


def test_short_work_and_other_processes_say_nothing(monkeypatch, clock):
    stream = Stream(False)
    monkeypatch.setattr("sys.stderr", stream)
    for seconds, is_shown in ((29.9, True), (90, False)):
        with Progress(2, "Mining", "prompts", is_shown=is_shown) as told:
            clock[0] += seconds
            told.update(2)
    assert stream.getvalue() == ""


def test_a_terminal_gets_one_bar_with_rate_and_time_left(monkeypatch):
    stream = Stream(True)
    monkeypatch.setattr("sys.stderr", stream)
    monkeypatch.setenv("COLUMNS", "100")
    with Progress(4, "Answers", "answers", done=1) as told:
        told.update(1)
        told._bar.refresh()
    text = stream.getvalue()
    assert "Answers:  50%|" in text and "2.00/4.00 answers [00:00<" in text and "answers/s]" in text
    assert text.count("\n") == 0 and text.split("\r")[-1].strip() == ""  # gone when it is done


@pytest.mark.parametrize(("is_terminal", "has_bar"), [(False, True), (True, False)])
def test_inside_a_measurement_ten_seconds_pass_in_silence(monkeypatch, clock, is_terminal, has_bar):
    stream = Stream(is_terminal)
    monkeypatch.setattr("sys.stderr", stream)
    with progress.told_after(10, has_bar=has_bar):
        for _ in range(2):  # 8 seconds each
            with Progress(4, "Scoring", "tokens") as told:
                for _ in range(4):
                    clock[0] += 2
                    told.update(1)
    assert stream.getvalue() == "Scoring: 1 of 4 tokens (25%), 0.5 tokens/s, 00:06 left\n"
    with Progress(
        1, "Mining", "prompts"
    ) as told:  # outside of it the first line is as late as ever
        clock[0] += 29.9
        told.update(0.5)
    assert "Mining: 0" not in stream.getvalue()


def test_inside_a_measurement_the_bar_comes_later(monkeypatch):
    stream = Stream(True)
    monkeypatch.setattr("sys.stderr", stream)
    with progress.told_after(0.2), Progress(4, "Scoring", "tokens") as told:
        told.update(1)
        assert stream.getvalue() == ""
        time.sleep(0.25)
        told.update(1)
        assert "Scoring:  50%|" in stream.getvalue()


@pytest.mark.parametrize("with_folder", [True, False])
def test_rounds_come_to_the_whole_whatever_was_there(with_folder, tmp_path, monkeypatch):
    """Each answer counts once, in the rounds that it takes or where it ends."""
    steps = []
    monkeypatch.setattr("hf_proxy.models.rounds.TOKENS_PER_ROUND", 2)
    monkeypatch.setattr(Progress, "update", lambda self, amount: steps.append(amount))
    prompts = {name: [number] for number, name in enumerate("abc")}

    def write(texts, length):  # that of "a" ends at once, the others never
        return [Written([7] * length, text[0] == 0) for text in texts]

    def write_all():
        steps.clear()
        folder = tmp_path if with_folder else None
        settings = {"max_new_tokens": 4, "batch_size": 2, "folder": folder}
        return write_in_rounds(write, prompts, **settings), list(steps)

    found, told = write_all()
    assert found["b"] == Written([7] * 4, False) and found["a"].ended
    assert told == [1.5, 0.5, 1.0]  # a whole and b half; c half; the rest of both
    assert write_all() == (found, told)  # read again, or written again


@pytest.mark.parametrize("is_terminal", [True, False])
def test_what_is_told_goes_on_while_one_batch_takes_long(monkeypatch, is_terminal):
    stream = Stream(is_terminal)
    monkeypatch.setattr("sys.stderr", stream)
    monkeypatch.setattr(progress, "SECONDS_PER_LINE", 0.05)
    monkeypatch.setattr(progress, "SECONDS_PER_BEAT", 0.01)
    threads = threading.active_count()
    with Progress(6, "Expert", "answers"):
        assert wait_for(lambda: stream.getvalue().count("Expert:") > 2)
    last = "0/6 answers [00:00<?" if is_terminal else "0 of 6 answers (0%), 0 answers/s, ? left"
    assert last in stream.getvalue().replace("0.00/6.00", "0/6")
    assert threading.active_count() == threads or is_terminal  # tqdm keeps a watcher of its own
    # nothing before its time, nor of other processes
    for seconds, is_shown in ((3600, True), (0, False)):
        stream.truncate(0)
        with told_after(seconds), Progress(6, "Expert", "answers", is_shown=is_shown):
            time.sleep(0.1)
        assert not stream.getvalue().strip("\r \0")


def wait_for(holds):
    until = time.monotonic() + 5
    while not holds() and time.monotonic() < until:
        time.sleep(0.01)
    return holds()


@pytest.fixture
def with_interrupts():
    """As on a terminal: what is started in the background inherits that Ctrl-C is ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("with_interrupts")
def test_an_interruption_is_one_line_that_says_how_to_go_on(capsys, monkeypatch):
    def interrupted(config):
        """Work.

        Writes:  it. The same line
                 again goes on where it stopped.
        """
        os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("went on")

    assert run(RecipeConfig, interrupted, [], prog="hf-proxy work") == 130
    assert capsys.readouterr().err.strip() == (
        "hf-proxy: interrupted; the same line again goes on where it stopped"
    )
    interrupted.__doc__ = "Work that keeps nothing."
    assert run(RecipeConfig, interrupted, [], prog="hf-proxy work") == 130
    assert capsys.readouterr().err.strip().endswith("; the same line again begins anew")
    monkeypatch.setenv("RANK", "1")  # one process speaks for all
    assert run(RecipeConfig, interrupted, [], prog="hf-proxy work") == 130
    assert capsys.readouterr().err == ""


@pytest.mark.usefixtures("with_interrupts")
def test_a_training_without_a_checkpoint_does_not_promise_to_go_on(capsys, tmp_path):
    @dataclass(frozen=True, kw_only=True)
    class Training(RecipeConfig):
        output_dir: str = str(tmp_path)

    def interrupted(*configs):
        """Train. The same line again goes on where it stopped."""
        os.kill(os.getpid(), signal.SIGINT)

    hosts = [Host("trl:ModelConfig")]  # a command that trains
    line = ["--model_name_or_path", "m"]
    says = []
    for state in (None, "{", json.dumps({"global_step": 5, "log_history": []})):
        if state is not None:  # none, cut off as it was written, whole
            (tmp_path / "checkpoint-5").mkdir(exist_ok=True)
            (tmp_path / "checkpoint-5" / "trainer_state.json").write_text(state)
        assert run(Training, interrupted, line, prog="hf-proxy work", hosts=hosts) == 130
        says.append(capsys.readouterr().err.strip())
    assert all("begins at step 0: no checkpoint is written yet" in line for line in says[:2])
    assert says[2] == "hf-proxy: interrupted; the same line again goes on where it stopped"


def test_a_command_is_spared_what_libraries_say_to_each_other(monkeypatch):
    def work(config):
        for module in ("transformers.training_args", "__main__"):
            warnings.warn_explicit("old name", FutureWarning, "x.py", 1, module=module)
        return {}

    for options, heard in ([], 1), (["always"], 2):
        monkeypatch.setattr(sys, "warnoptions", options)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            assert run(RecipeConfig, work, [], prog="hf-proxy work") == 0
        assert len(said) == heard


def test_an_interruption_before_the_recipe_has_begun(monkeypatch, capsys):
    def importing(name):
        raise KeyboardInterrupt

    monkeypatch.setattr("hf_proxy.cli.import_module", importing)
    assert main([next(iter(COMMANDS))]) == 130
    assert capsys.readouterr().err.strip() == "hf-proxy: interrupted; nothing had begun"


@pytest.mark.parametrize("name", ["score", "contrast mine", "contrast foretell", "accuracy"])
def test_help_says_that_long_work_goes_on(name, capsys):
    code, said, _ = command(capsys, *name.split(), "--help")
    assert code == 0 and "same line again goes on" in " ".join(said.out.split())
