"""Whether an amateur reads the expert's ids, token by token; control tokens are matched by name."""

from collections.abc import Sequence

import numpy as np
from transformers import PreTrainedTokenizerBase

from hf_proxy.records.errors import InputError


class IdMap:
    """The amateur's id of each of the expert's.

    Attributes:
        moved: int64 [n, 2], expert id and amateur id of the control tokens that lie elsewhere.
        missing: expert ids of control tokens that the amateur does not have, with their names.
    """

    def __init__(self, moved: Sequence[tuple[int, int]], missing: dict[int, str]):
        self.moved = np.array(moved, dtype=np.int64).reshape(-1, 2)
        self.missing = missing

    def __call__(self, ids: Sequence[int], *, row: str) -> list[int]:
        """These ids as the amateur counts them.

        Raises:
            InputError: one of them is a control token that the amateur does not have.
        """
        if absent := [self.missing[token] for token in ids if token in self.missing]:
            raise InputError.at(
                f"control token {absent[0]!r} means nothing to the amateur",
                remedy="choose an amateur of the same family, or another chat template",
                row=row,
                field="input_ids",
            )
        if not len(self.moved):
            return list(ids)
        ours = {int(theirs): int(own) for theirs, own in self.moved}
        return [ours.get(token, token) for token in ids]


def match_vocabularies(expert: PreTrainedTokenizerBase, amateur: PreTrainedTokenizerBase) -> IdMap:
    """How the amateur counts the expert's tokens.

    Ordinary tokens must have one id in both. Control tokens (those added beside the vocabulary) are
    matched by name, wherever they lie.

    Raises:
        InputError: an ordinary token has another id, or none: the families do not match.
    """
    added = {id: token.content for id, token in expert.added_tokens_decoder.items()}
    theirs = amateur.get_vocab()
    ordinary = {token: id for token, id in expert.get_vocab().items() if id not in added}
    differing = {token: id for token, id in ordinary.items() if theirs.get(token) != id}
    if differing:
        token, id = min(differing.items(), key=lambda item: item[1])
        found = theirs.get(token)
        where = "has no such token" if found is None else f"has it at {found}"
        raise InputError.at(
            f"{len(differing)} of {len(ordinary)} tokens of the expert are others for the amateur; "
            f"the first is {token!r} at id {id}, the amateur {where}",
            remedy="choose an amateur with the expert's tokenizer",
            source=f"{expert.name_or_path or 'expert'} and {amateur.name_or_path or 'amateur'}",
        )
    # an id that the amateur uses for an ordinary token of its own is no control token there
    pairs = [(id, theirs.get(name)) for id, name in added.items()]
    return IdMap(
        [(id, own) for id, own in pairs if own is not None and own != id],
        {id: added[id] for id, own in pairs if own is None},
    )
