"""Answers by greedy and by contrastive decoding, a batch at a time."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from torch import Tensor
from transformers import PreTrainedTokenizerBase

from hf_proxy.mining.divergence import contrast_steps
from hf_proxy.mining.miner import Miner
from hf_proxy.models.access import head_width, scoring_mode, unwrapped
from hf_proxy.models.generation import OnlyTokens, end_ids_of, generate
from hf_proxy.models.in_step import generate_in_step
from hf_proxy.models.rounds import Written
from hf_proxy.records.errors import InputError

# from ids of prompts and a number of tokens to what stands behind each
Write: TypeAlias = Callable[[list[list[int]], int], list[Written]]


def greedy_writer(model: Any, tokenizer: PreTrainedTokenizerBase, allowed: Sequence[int]) -> Write:
    """Greedy decoding of one model; `allowed` are the ids it may write beside those that end."""

    def write(prompts: list[list[int]], length: int) -> list[Written]:
        with scoring_mode(model) as bare:
            texts = generate(
                bare,
                prompts,
                processing_class=tokenizer,
                max_new_tokens=length,
                temperature=0.0,
                seed=[0],
                allowed=allowed,
            )
            ends = end_ids_of(bare, tokenizer)
        return [Written(ids, ids[-1] in ends) for ids in texts]

    return write


def contrastive_writer(miner: Miner, divergence_beta: float, plausibility_alpha: float) -> Write:
    """Contrastive decoding of a pair.

    At each step the target's first token (see `Contrast.first_token`) where KL(expert || amateur)
    >= divergence_beta, else the expert's own.
    """
    settings = dataclasses.replace(
        miner.settings, divergence_beta=divergence_beta, plausibility_alpha=plausibility_alpha
    )
    width = head_width(unwrapped(miner.expert))
    only = OnlyTokens({*miner.writable, *miner.end_ids}, width)

    def choose(expert_BV: Tensor, amateur_BV: Tensor) -> Tensor:
        token_B = only(None, expert_BV).argmax(-1)
        pair = miner.over_same_tokens(expert_BV, amateur_BV)
        try:
            found = contrast_steps(*pair, settings)
            found.require_finite()
        except ValueError as error:
            raise InputError.at(f"in contrastive decoding, {error}", remedy="see there") from error
        kept = found.keep_N.nonzero()[:, 0]
        first_M = found.first_token(~only.banned_V)
        token_B[kept] = first_M.where(first_M >= 0, token_B[kept])
        return token_B

    def as_amateur(ids: list[int]) -> list[int]:
        return miner.id_map(ids, row="in contrastive decoding")

    def write(prompts: list[list[int]], length: int) -> list[Written]:
        with scoring_mode(miner.expert) as expert, scoring_mode(miner.amateur) as amateur:
            texts = generate_in_step(
                expert,
                amateur,
                prompts,
                list(map(as_amateur, prompts)),
                choose,
                processing_class=miner.processing_class,
                max_new_tokens=length,
                translate=as_amateur,
            )
        return [Written(ids, ids[-1] in miner.end_ids) for ids in texts]

    return write
