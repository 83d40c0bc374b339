"""Selective SFT on rows made up, by the trainer and by two that divide wrongly."""

import random

import numpy as np
import torch
from datasets import Dataset

from helpers.models import make_model, sharp_pair
from hf_proxy import SelectiveSFTConfig, SelectiveSFTTrainer
from hf_proxy.mining.miner import Miner
from hf_proxy.mining.settings import MiningSettings
from hf_proxy.records.rows import SOFT_TARGET_FEATURES


class MeanTrainer(SelectiveSFTTrainer):
    """What a plain mean over the micro-batch's own steps would train, for comparison."""

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        return super().compute_loss(model, inputs, return_outputs, None)


class MeanOfMeansTrainer(MeanTrainer):
    loss_is_scaled_for_ga = False


TRAINERS = {
    "ours": SelectiveSFTTrainer,
    "mean": MeanTrainer,
    "mean of means": MeanOfMeansTrainer,
}


def make_rows(tokenizer, num_rows=8, seed=3):
    """Uneven trajectories with an uneven number of kept steps, targets of 1 to 4 tokens."""
    rng = random.Random(seed)
    size = len(tokenizer)
    rows = []
    for number in range(num_rows):
        start, steps = rng.randint(2, 9), rng.randint(3, 14)
        kept = sorted(rng.sample(range(steps), rng.randint(1, min(5, steps))))
        widths = [rng.randint(1, 4) for _ in kept]
        prob = [np.random.default_rng(number).dirichlet(np.ones(w)) for w in widths]
        rows.append(
            {
                "example_id": str(number),
                "input_ids": [rng.randrange(size) for _ in range(start + steps)],
                "prompt_length": start,
                "kl": [1.0] * steps,
                "top1_agree": [True] * steps,
                "expert_entropy": [1.0] * steps,
                "amateur_entropy": [1.0] * steps,
                "support_size": [1] * steps,
                "position": [start + step for step in kept],
                "offset": [0, *np.cumsum(widths).tolist()],
                "token_id": [t for w in widths for t in sorted(rng.sample(range(size), w))],
                "prob": np.concatenate(prob).tolist(),
                "expert_logprob": [-1.0] * sum(widths),
                "amateur_logprob": [-1.0] * sum(widths),
            }
        )
    return Dataset.from_list(rows, features=SOFT_TARGET_FEATURES)


def selective_trainer(
    folder,
    tokenizer,
    rows,
    *,
    model=None,
    peft_config=None,
    amateur=None,
    eval_dataset=None,
    kind="ours",
    callbacks=None,
    **changes,
):
    settings = {
        "output_dir": str(folder),
        "max_steps": 1,
        "per_device_train_batch_size": 8,
        "learning_rate": 1.0,
        "lr_scheduler_type": "constant",
        "optim": "sgd",
        "max_grad_norm": 1e9,
        "bf16": False,
        "use_cpu": True,
        "save_strategy": "no",
        "logging_steps": 1,
        "report_to": "none",
    }
    return TRAINERS[kind](
        model=model or make_model("llama", len(tokenizer)),
        args=SelectiveSFTConfig(**settings | changes),
        train_dataset=rows,
        eval_dataset=eval_dataset,
        processing_class=tokenizer,
        peft_config=peft_config,
        amateur=amateur,
        amateur_processing_class=tokenizer if amateur is not None else None,
        callbacks=callbacks,
    )


def plain_loss(model, rows, sft_weight=0.0):
    """One record per step: its own prefix, full logits, dense target; the mean over all records.
    And, weighted, the mean over all completion tokens of -ln p, one row at a time."""
    losses, nlls = [], []
    for row in rows:
        for m, position in enumerate(row["position"]):
            own = slice(row["offset"][m], row["offset"][m + 1])
            prefix = torch.tensor([row["input_ids"][:position]])
            logprob = torch.log_softmax(model(prefix).logits[0, -1].double(), -1)
            target = torch.zeros(logprob.shape, dtype=torch.float64)
            target[row["token_id"][own]] = torch.tensor(row["prob"][own], dtype=torch.float64)
            losses.append(torch.nn.functional.kl_div(logprob, target, reduction="sum"))
        if sft_weight:
            ids = torch.tensor(row["input_ids"])
            logprobs = torch.log_softmax(model(ids[None]).logits[0].double(), -1)
            places = torch.arange(row["prompt_length"], len(ids))
            nlls += list(-logprobs[places - 1, ids[places]])
    loss = torch.stack(losses).mean()
    return loss + sft_weight * torch.stack(nlls).mean() if sft_weight else loss


def weights_of(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def update_norm(folder, tokenizer, kind, **changes):
    """Length of one SGD update."""
    trainer = selective_trainer(folder, tokenizer, make_rows(tokenizer), kind=kind, **changes)
    before = weights_of(trainer.model).clone()
    trainer.train()
    return (weights_of(trainer.model) - before).norm().item()


def online_trainer(folder, tokenizer, **changes):
    """Targets made in the step, at a threshold that leaves kept steps in one row of eight."""
    expert, amateur = sharp_pair(len(tokenizer))
    rows = make_rows(tokenizer)
    miner = Miner(
        expert,
        amateur,
        processing_class=tokenizer,
        amateur_processing_class=tokenizer,
        settings=MiningSettings(),
    )
    prompts = [row["input_ids"][: row["prompt_length"]] for row in rows]
    texts = [row["input_ids"][row["prompt_length"] :] for row in rows]
    highest = sorted(max(row["kl"]) for row in miner.rows(rows["example_id"], prompts, texts))
    return selective_trainer(
        folder,
        tokenizer,
        rows,
        model=expert,
        amateur=amateur,
        divergence_beta=float(highest[-1] + highest[-2]) / 2,
        learning_rate=0.1,
        **changes,
    )
