"""Whether training on soft targets will help, foretold by decoding with them (LightReasoner).

Contrastive decoding writes the target's first token where KL(expert || amateur) >= divergence_beta,
the expert's first token elsewhere; it is held against the expert's greedy decoding, problem by
problem, before anything is trained.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from hf_proxy.intervals import LEAST_FOR_INTERVAL
from hf_proxy.mining.decoding import Write, contrastive_writer, greedy_writer
from hf_proxy.mining.graded import grade_answers, read_gold, texts_of
from hf_proxy.mining.miner import Miner
from hf_proxy.mining.settings import MiningSettings
from hf_proxy.mining.verdicts import ENOUGH_PROBLEMS, Foretold, Graded, foretold
from hf_proxy.models import rounds
from hf_proxy.models.access import unwrapped
from hf_proxy.models.meshes import refuse_same_rows
from hf_proxy.models.parallel import Processes, from_main, is_main, require_equal, stop_together
from hf_proxy.models.rounds import Written, write_in_rounds
from hf_proxy.models.whole import made_whole, weights_in_reach
from hf_proxy.records.defaults import MAX_ANSWER_TOKENS, SYSTEM_PROMPT
from hf_proxy.records.errors import InputError
from hf_proxy.records.lines import write_lines
from hf_proxy.records.storage import fingerprint, provenance_of, write_text
from hf_proxy.tokens.prompts import Prompts, read_prompts
from hf_proxy.tokens.tokenizers import tokenizer_of

Setting = tuple[float, float]  # divergence_beta, plausibility_alpha


def foretell_gain(
    expert: Any,
    amateur: Any,
    problems: Dataset | Sequence[Mapping[str, Any]],
    *,
    processing_class: PreTrainedTokenizerBase,
    amateur_processing_class: Any = None,
    divergence_beta: float | Sequence[float] = MiningSettings.divergence_beta,
    plausibility_alpha: float | Sequence[float] = MiningSettings.plausibility_alpha,
    answer_pattern: str | None = None,
    verdict: bool = True,
    output_dir: str | Path | None = None,
    accelerator: Processes = None,
    context: str = "chat",
    system_prompt: str | None = SYSTEM_PROMPT,
    chat_template_kwargs: Mapping[str, Any] | None = None,
    max_new_tokens: int = MAX_ANSWER_TOKENS,
    temperature: float = MiningSettings.temperature,
    batch_size: int = MiningSettings.batch_size,
    seed: int = MiningSettings.seed,
    facts: Mapping[str, Any] | None = None,
) -> Foretold:
    """Foretell what training the expert on its soft targets will gain, before training it.

    `contrast_temperature` has no part in it: it leaves the target's first token what it is.

    Args:
        expert: a causal language model, which may be sharded (FSDP2, ZeRO-3).
        amateur: another, whole on this process.
        problems: rows with `prompt`, `answer` and, if they have names, `example_id`.
        processing_class: the expert's tokenizer, or a processor that holds it; its template is
            used for both models.
        amateur_processing_class: the amateur's, checked token by token; None: read from the folder
            or hub id that the amateur was loaded from.
        divergence_beta, plausibility_alpha: of `contrast`; of several each pair is tried.
        answer_pattern: regular expression whose first group is the right answer in `answer`; None:
            all of it.
        verdict: False: without right answers, how far the answers agree and no more.
        output_dir: every answer as it comes, so that an interrupted call goes on where it was; at
            the end `foretold.json` and, with right answers, `items.jsonl`.
        accelerator: who shares the work; None: this process alone.
        context, system_prompt, chat_template_kwargs: see `read_prompts`.
        max_new_tokens: of an answer; one that is cut is graded as it is, and counted.
        temperature: 0: decoding is greedy.
        batch_size: problems that are answered together.
        seed: of the halves where several settings are tried.
        facts: names of models and data, for `foretold.json`.

    Returns:
        `Foretold`, the same on every rank.

    Raises:
        InputError: no right answer where a verdict is asked for, a temperature, an amateur of
            another family or without tokenizer, a prompt beyond the window, a logit that is not
            finite; see `read_prompts`.
    """
    settings = [
        MiningSettings(
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            batch_size=batch_size,
            seed=seed,
            divergence_beta=beta,
            plausibility_alpha=alpha,
        )
        for beta in _several(divergence_beta)
        for alpha in _several(plausibility_alpha)
    ]
    if not settings:
        raise InputError.at(
            "there is no setting", remedy="give at least one", field="divergence_beta"
        )
    amateur = made_whole(amateur)
    with stop_together(accelerator):
        processing_class = tokenizer_of(processing_class)
        miner = Miner(
            expert,
            amateur,
            processing_class=processing_class,
            amateur_processing_class=amateur_processing_class,
            settings=settings[0],
        )
        foreteller = Foreteller(
            miner,
            problems,
            answer_pattern=answer_pattern,
            verdict=verdict,
            context=context,
            system_prompt=system_prompt,
            chat_template_kwargs=chat_template_kwargs,
        )
    pairs = [(own.divergence_beta, own.plausibility_alpha) for own in settings]
    folder = None if output_dir is None else Path(output_dir)
    return foreteller.foretell(
        list(dict.fromkeys(pairs)), accelerator=accelerator, folder=folder, facts=facts or {}
    )


class Foreteller:
    """A pair of models and problems, ready to be foretold from as often as the expert moves.

    Args:
        miner: of the pair; its settings say how long answers are and how many are written together.
        problems, answer_pattern, verdict, context, system_prompt, chat_template_kwargs: of
            `foretell_gain`.

    Raises:
        InputError: as `foretell_gain`.
    """

    def __init__(
        self,
        miner: Miner,
        problems: Dataset | Sequence[Mapping[str, Any]],
        *,
        answer_pattern: str | None = None,
        verdict: bool = True,
        context: str = "chat",
        system_prompt: str | None = SYSTEM_PROMPT,
        chat_template_kwargs: Mapping[str, Any] | None = None,
    ):
        check_foretellable(miner.settings)
        self.miner = miner
        self.tokenizer = miner.processing_class
        self.amateur_tokenizer = miner.amateur_processing_class
        rows = problems if isinstance(problems, Dataset) else Dataset.from_list(list(problems))
        self.prompts: Prompts = read_prompts(
            rows,
            self.tokenizer,
            context=context,
            system_prompt=system_prompt,
            chat_template_kwargs=chat_template_kwargs,
        )
        miner.check_lengths(self.prompts)
        self.gold = read_gold(rows, self.prompts.example_id, answer_pattern) if verdict else None
        names = self.prompts.example_id
        self._given = dict(zip(names, self.prompts.input_ids, strict=True))
        self._amateurs = {name: miner.id_map(ids, row=name) for name, ids in self._given.items()}
        self._known: tuple[str, dict[str, Written]] | None = None  # the amateur never moves

    def foretell(
        self,
        settings: Sequence[Setting],
        *,
        accelerator: Processes = None,
        folder: Path | None = None,
        facts: Mapping[str, Any] | None = None,
    ) -> Foretold:
        """Answer every problem greedily by each model, and contrastively under each setting.

        The greedy answers are written once, whatever the number of settings. An expert whose
        weights are sharded stands whole on each process meanwhile.
        """
        for model in (self.miner.expert, self.miner.amateur):
            refuse_same_rows(unwrapped(model), accelerator, "foretelling")
        with weights_in_reach(self.miner.expert, "whole", accelerator):
            return self._foretell(settings, accelerator, folder, facts or {})

    def _foretell(
        self,
        settings: Sequence[Setting],
        accelerator: Processes,
        folder: Path | None,
        facts: Mapping[str, Any],
    ) -> Foretold:
        with stop_together(accelerator):
            # to judge by; where there are several settings, as many to choose by
            least = LEAST_FOR_INTERVAL * (1 if len(settings) == 1 else 2)
            if self.gold is not None and len(self.gold) < least:
                raise InputError.at(
                    f"{len(self.gold)} problems give no verdict on {len(settings)} settings",
                    remedy=f"give at least {least}, better {ENOUGH_PROBLEMS}",
                )
            stamp = self._stamp(accelerator)
        require_equal(
            fingerprint(stamp),
            accelerator,
            what="what is foretold from",
            remedy="give every rank the same models, problems and settings",
        )

        def written(
            what: str, write: Write, given: dict[str, list[int]], **own: Any
        ) -> dict[str, Written]:
            content = stamp | {"written_by": what} | own
            place = None if folder is None else folder / "generations" / fingerprint(content)
            with stop_together(accelerator):
                if place is not None and is_main(accelerator):
                    write_text(place / "settings.json", json.dumps(content, indent=2))
            return write_in_rounds(
                write,
                given,
                max_new_tokens=self.miner.settings.max_new_tokens,
                batch_size=self.miner.settings.batch_size,
                accelerator=accelerator,
                folder=place,
                what=what,
            )

        miner = self.miner
        write_expert = greedy_writer(miner.expert, self.tokenizer, miner.writable)
        expert = written("Expert", write_expert, self._given)
        key = fingerprint(stamp["amateur"])
        if self._known is None or self._known[0] != key:
            both = [id for id in miner.writable if id not in miner.id_map.missing]
            own_ids = miner.id_map(both, row="the vocabulary")
            write_amateur = greedy_writer(miner.amateur, self.amateur_tokenizer, own_ids)
            self._known = (key, written("Amateur", write_amateur, self._amateurs))
        amateur = self._known[1]
        contrastive = {
            (beta, alpha): written(
                f"Contrast {beta:g}, {alpha:g}",
                contrastive_writer(miner, beta, alpha),
                self._given,
                divergence_beta=beta,
                plausibility_alpha=alpha,
            )
            for beta, alpha in settings
        }

        def judge() -> Foretold:
            return self._judge(expert, amateur, contrastive, folder, stamp, facts)

        return from_main(accelerator, judge)

    def _stamp(self, accelerator: Processes) -> dict[str, Any]:
        """What decides the answers beside the setting, by value or by hash."""
        about = self.miner.describe(self.prompts, accelerator)
        decisive = ("prompts", "template_hash", "tokenizer", "end_ids", "expert", "amateur")
        return {name: about[name] for name in decisive} | {
            "writable": fingerprint(sorted(self.miner.writable)),
            "max_new_tokens": self.miner.settings.max_new_tokens,
            "batch_size": self.miner.settings.batch_size,
            "tokens_per_round": rounds.TOKENS_PER_ROUND,
        }

    def _judge(
        self,
        expert: dict[str, Written],
        amateur: dict[str, Written],
        contrastive: dict[Setting, dict[str, Written]],
        folder: Path | None,
        stamp: dict[str, Any],
        facts: Mapping[str, Any],
    ) -> Foretold:
        """Grade all answers, and leave what was found in the folder."""
        names = sorted(self._given)  # so that the halves do not hang on the order of the rows
        items: list[dict[str, Any]] = []
        greedy = texts_of(names, self._given, expert, self.tokenizer)

        def graded(who: str, answers: dict[str, Written], is_amateur: bool = False) -> Graded:
            tokenizer = self.amateur_tokenizer if is_amateur else self.tokenizer
            given = self._amateurs if is_amateur else self._given
            texts = texts_of(names, given, answers, tokenizer)
            found, own = grade_answers(who, names, texts, answers, greedy, self.gold)
            items.extend(own)
            return found

        found = foretold(
            graded("expert", expert),
            graded("amateur", amateur, is_amateur=True),
            {
                (beta, alpha): graded(f"contrast {beta:g}, {alpha:g}", own)
                for (beta, alpha), own in contrastive.items()
            },
            max_new_tokens=self.miner.settings.max_new_tokens,
            seed=self.miner.settings.seed,
        )
        if folder is not None:
            content = dataclasses.asdict(found) | {
                "sentence": found.sentence,
                "provenance": provenance_of(
                    **stamp,
                    seed=self.miner.settings.seed,
                    amateur_ids="checked",
                    facts=dict(facts),
                ),
            }
            if items:
                write_lines(folder / "items.jsonl", items)
            write_text(folder / "foretold.json", json.dumps(content, indent=2))
        return found


def check_foretellable(settings: MiningSettings) -> None:
    """Refuse settings of mining under which nothing can be foretold.

    Raises:
        InputError: naming the field.
    """
    if settings.temperature != 0:
        raise InputError.at(
            f"{settings.temperature:g}: a gain is foretold from greedy decoding only",
            remedy="leave it at 0",
            field="temperature",
        )
    if settings.parity is not None:
        raise InputError.at(
            f"{settings.parity!r}: a gain is foretold without the published script's epsilon only",
            remedy="leave it away",
            field="parity",
        )


def _several(values: float | Sequence[float]) -> list[float]:
    return [float(values)] if isinstance(values, int | float) else list(map(float, values))
