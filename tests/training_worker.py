"""Training on several real processes with and without the callback."""

from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import gather_object
from helpers.models import make_model
from helpers.traces import make_traces
from helpers.trainers import Careless, lines_of, plain_trainer, same, state_of
from transformers import AutoTokenizer, set_seed

from hf_proxy import align_traces, load_metric, score_traces, token_logprobs
from hf_proxy.callbacks import ProxyScoreCallback


def training(out, tokenizer):
    """Final state of each way to train; True where all of it is equal on every rank."""

    def trained(name, callbacks=(), attach=False):
        trainer = plain_trainer(out / name, tokenizer, callbacks=callbacks)
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


def resume(out, tokenizer):
    """Go on from step 4 of the attached run."""
    callback = ProxyScoreCallback(make_traces(5))
    trainer = plain_trainer(out / "attached", tokenizer, callbacks=[callback])
    callback.attach(trainer)
    set_seed(11)  # the order of the rows is drawn from it
    trainer.train(resume_from_checkpoint=str(out / "attached" / "run" / "checkpoint-4"))


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


def work(folder: Path, out: Path) -> dict[str, Any]:
    """What was found; inputs lie in `folder`, runs are left in `out`."""
    accelerator = Accelerator(cpu=True)
    tokenizer = AutoTokenizer.from_pretrained(str(folder / "tokenizer"))
    found = {"neutral": training(out, tokenizer), "loop": plain_loop(tokenizer)}
    found["lines"] = lines_of(out / "attached")
    accelerator.wait_for_everyone()  # all have read them
    resume(out, tokenizer)
    found["lines after resume"] = lines_of(out / "attached")
    return found
