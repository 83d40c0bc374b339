"""What each of two or three real processes scores, whole and sharded, and how all stop together."""

import json
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from datasets import load_from_disk
from helpers.models import make_model
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
from transformers import AutoTokenizer

from hf_proxy import load_traces, score_traces, token_logprobs
from hf_proxy.models.parallel import from_main, stop_together


def numbers(score):
    names = ("value", "low", "high", "pooled", "trace_nll", "bits_per_byte", "mean_rank")
    return {name: getattr(score, name) for name in names} | {
        "rows": score.rows.to_dict(),
        "setting": score.setting.hash,
        "num_parameters": score.num_parameters,
        "statistics": score.statistics,
        "statistics_pooled": score.statistics_pooled,
    }


def scores(aligned, accelerator, vocab_size):
    """Uneven shards, every dtype, wrapped and not; fewer rows than ranks; shuffled on one rank."""
    found = {}
    for name, dtype in (("float32", torch.float32), ("float64", torch.float64)):
        model = make_model("llama", vocab_size, dtype=dtype)
        for tokens_per_batch in (64, 100_000):
            score = score_traces(
                model, aligned, accelerator=accelerator, tokens_per_batch=tokens_per_batch
            )
            found[f"{name} {tokens_per_batch}"] = numbers(score)
    one = score_traces(model, aligned.select([3]), accelerator=accelerator)
    found["one row"] = numbers(one)
    order = (
        aligned if accelerator.is_main_process else aligned.shuffle(seed=accelerator.process_index)
    )
    found["own order"] = numbers(score_traces(model, order, accelerator=accelerator))
    wrapped = DistributedDataParallel(make_model("llama", vocab_size))
    found["ddp"] = numbers(score_traces(wrapped, aligned, accelerator=accelerator))
    found["from_main"] = from_main(accelerator, lambda: accelerator.process_index)
    # no accelerator: each process alone scores everything
    found["alone"] = numbers(score_traces(model, aligned))
    tokens = token_logprobs(model, aligned, accelerator=accelerator)
    found["token_logprobs"] = tokens.to_dict()
    return found


def sharded(aligned, accelerator, vocab_size):
    """FSDP2 by hand on gloo: forwards are collectives, so an uneven number of them would hang."""
    model = make_model("llama", vocab_size)
    mesh = init_device_mesh("cpu", (accelerator.num_processes,))
    for layer in model.model.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    # after a backward pass, as in training, weights are sharded again
    ids = torch.arange(16)[None]
    model(input_ids=ids, labels=ids).loss.backward()
    found = numbers(score_traces(model, aligned, accelerator=accelerator, tokens_per_batch=128))
    before = [type(parameter).__name__ for parameter in model.parameters()]
    again = numbers(score_traces(model, aligned, accelerator=accelerator, tokens_per_batch=128))
    model(input_ids=ids, labels=ids).loss.backward()  # training goes on
    return {"fsdp2": found, "fsdp2 again": again, "types": before}


def faults(aligned, accelerator, vocab_size, folder):
    """Trouble on one rank only: all ranks must raise, and none may hang."""
    rank = accelerator.process_index
    last = accelerator.num_processes - 1

    def report(work):
        try:
            work()
        except Exception as error:
            said = [(type(error).__name__, str(error))]
        else:
            said = [("nothing", "")]
        return gather_object(said)

    def unreadable_file():
        with stop_together(accelerator):
            load_traces(folder / ("traces.jsonl" if rank != last else "elsewhere.jsonl"))

    def unlike_rows():
        rows = aligned if rank != last else aligned.select(range(len(aligned) - 1))
        score_traces(make_model("llama", vocab_size), rows, accelerator=accelerator)

    def nan_on_one_rank():
        model = make_model("llama", vocab_size)
        if rank == last:
            model.lm_head.weight.data.fill_(float("nan"))
        score_traces(model, aligned, accelerator=accelerator)

    def crash_on_one_rank():
        with stop_together(accelerator):
            if rank == last:
                raise KeyError("lost")

    def bad_rows_on_one_rank():
        rows = aligned if rank != last else aligned.select([])
        score_traces(make_model("llama", vocab_size), rows, accelerator=accelerator)

    def crash_on_main_for_all():
        from_main(accelerator, lambda: {}["lost"])

    works = (
        unreadable_file,
        unlike_rows,
        nan_on_one_rank,
        crash_on_one_rank,
        bad_rows_on_one_rank,
        crash_on_main_for_all,
    )
    found = {work.__name__: report(work) for work in works}
    # and afterwards everything still works
    score = score_traces(make_model("llama", vocab_size), aligned, accelerator=accelerator)
    return {"faults": found, "after": numbers(score)}


def work(folder: Path, out: Path) -> dict[str, Any]:
    """What was found; inputs lie in `folder`, runs are left in `out`."""
    accelerator = Accelerator(cpu=True)
    aligned = load_from_disk(str(folder / "aligned"))
    vocab_size = len(AutoTokenizer.from_pretrained(str(folder / "tokenizer")))
    found = scores(aligned, accelerator, vocab_size)
    found |= sharded(aligned, accelerator, vocab_size)
    found |= faults(aligned, accelerator, vocab_size, folder)
    everywhere = gather_object([json.dumps({k: v for k, v in found.items() if k != "alone"})])
    found["same on every rank"] = len(set(everywhere)) == 1
    return found
