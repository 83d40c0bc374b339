"""Training on several real processes with and without the callback; started by torchrun."""

import json
import sys
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from conftest import make_traces
from test_proxy_score import Careless, lines_of, make_trainer, same, state_of
from tiny_models import make_model
from transformers import AutoTokenizer, set_seed

from hf_proxy import align_traces, load_metric, score_traces, token_logprobs
from hf_proxy.callbacks import ProxyScoreCallback
from hf_proxy.models.parallel import end_together


def training(folder, tokenizer):
    """Final state of each way to train; True where all of it is equal on every rank."""

    def trained(name, callbacks=(), attach=False):
        trainer = make_trainer(folder / name, tokenizer, callbacks=callbacks)
        if attach:
            callbacks[0].attach(trainer)
        set_seed(11)
        trainer.train()
        return state_of(trainer)

    def callback():
        return ProxyScoreCallback(make_traces(5))

    without = trained("without")
    found = {
        "unattached": same(without, trained("unattached", [callback()])),
        "attached": same(without, trained("attached", [callback()], attach=True)),
        "careless": same(without, trained("careless", [Careless()])),
    }
    return {name: gather_object([equal]) for name, equal in found.items()}


def resumed(folder, tokenizer):
    """The lines after a resume from step 4 of the attached run."""
    callback = ProxyScoreCallback(make_traces(5))
    trainer = make_trainer(folder / "attached", tokenizer, callbacks=[callback])
    callback.attach(trainer)
    set_seed(11)  # the order of the rows is drawn from it
    trainer.train(resume_from_checkpoint=str(folder / "attached" / "run" / "checkpoint-4"))


def plain_loop(tokenizer):
    """The metric without Trainer: every process scores its share, the main one computes."""
    accelerator = Accelerator(cpu=True)
    traces = make_traces(7)
    aligned = align_traces(traces, tokenizer)
    model = accelerator.prepare(make_model("llama", len(tokenizer)))
    # each rank's own rows, gathered by hand, as in a loop that scores what it has just generated
    mine = aligned.select(range(accelerator.process_index, len(aligned), accelerator.num_processes))
    rows = gather_object(token_logprobs(model, mine).to_list())
    expected = score_traces(model, aligned, accelerator=accelerator).value
    if not accelerator.is_main_process:
        return None
    result = load_metric("rbridge").compute(predictions=rows, references=traces.to_list())
    return {"metric": result["value"], "score_traces": expected, "rows": len(rows)}


def main():
    folder = Path(sys.argv[1])
    torch.set_num_threads(1)
    assert Accelerator(cpu=True).num_processes == int(sys.argv[2])
    tokenizer = AutoTokenizer.from_pretrained(str(folder / "tokenizer"))
    found = {"neutral": training(folder, tokenizer), "loop": plain_loop(tokenizer)}
    main_process = Accelerator(cpu=True).is_main_process
    if main_process:
        found["lines"] = lines_of(folder / "attached")
    resumed(folder, tokenizer)
    if main_process:
        found["lines after resume"] = lines_of(folder / "attached")
        (folder / "trained.json").write_text(json.dumps(found))


if __name__ == "__main__":
    with end_together():
        main()
