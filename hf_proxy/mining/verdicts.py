"""What contrastive decoding foretells: gains over greedy decoding, and the verdict on them.

The rule was fixed before it was used: over paired problems with a 95 % interval `go` where the
lower end is above 0 and the gain at least 3 points, `away` where the upper end is below 0, else
`no evidence`. Where several settings are tried, the best is chosen on one half of the problems and
judged on the other, since the best of several looks good by luck alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hf_proxy.answers.pairs import compare_accuracy

LEVEL = 0.95
LEAST_GAIN = 3  # points of accuracy
ENOUGH_PROBLEMS = 300  # with fewer, what they could show is said
FEW_PROBLEMS = 100  # with fewer, that is said
# verdict: its sentence
SENTENCES = {
    "go": "the targets point towards right answers",
    "away": "the targets point away from right answers",
    "no evidence": "no evidence that these targets help",
}
LIMITS = (
    "the study behind the verdict: gains foretold and gains after training went together (r .98 "
    "over 30 settings, .95 over 41) in small made-up worlds; its threshold was chosen afterwards, "
    "the same problems stood on both sides, and there were six pre-trainings; on problems apart "
    "30 of 31 'go' came true and 12 of 42 gains were missed; of real models one pair was seen: no "
    "evidence, and no gain"
)
NOTHING_FORETELLS = (
    "without right answers nothing foretells whether training on these targets helps: how often "
    "the answers change, and what else is known of a set without labels, did not go with the gain"
)


@dataclass(frozen=True)
class ForetoldSetting:
    """Contrastive decoding under one setting against the expert's greedy decoding.

    Attributes:
        divergence_beta: nats; the target's first token is written where KL >= beta.
        plausibility_alpha: of the target's mask.
        gain: accuracy of contrastive decoding minus that of greedy, a fraction; like all that asks
            for right answers, None without them.
        low, high: its 95 % bootstrap interval over problems.
        p: McNemar's exact test, two-sided.
        verdict: `"go"`, `"away"` or `"no evidence"`, as of a setting named beforehand.
        amateur_accuracy, expert_accuracy, accuracy: of the amateur's and the expert's greedy
            decoding, and of contrastive decoding.
        only_greedy, only_contrast: problems that one alone got right.
        detectable: the gain that so many problems would show, see `AccuracyComparison`.
        agreement: share of problems to which both ways of decoding give one answer.
        num_problems: behind these figures.
        num_cut: contrastive answers that came to no end, graded as they are.
    """

    divergence_beta: float
    plausibility_alpha: float
    gain: float | None
    low: float | None
    high: float | None
    p: float | None
    verdict: str | None
    amateur_accuracy: float | None
    expert_accuracy: float | None
    accuracy: float | None
    only_greedy: int | None
    only_contrast: int | None
    detectable: float | None
    agreement: float
    num_problems: int
    num_cut: int


@dataclass(frozen=True)
class Foretold(ForetoldSetting):
    """What is foretold of training on the targets, by the setting to mine with.

    The figures are those of the one setting asked for; of several, those of the best on one half of
    the problems, over the other half.

    Attributes:
        settings: every setting that was tried, over all problems.
        notes: sentences that belong beside the verdict.
        num_cut_expert, num_cut_amateur: greedy answers that came to no end.
    """

    settings: tuple[ForetoldSetting, ...]
    notes: tuple[str, ...]
    num_cut_expert: int
    num_cut_amateur: int

    @property
    def sentence(self) -> str:
        """The verdict in words; without right answers, that there is none."""
        return NOTHING_FORETELLS if self.verdict is None else SENTENCES[self.verdict]


@dataclass(frozen=True)
class Graded:
    """One way of decoding, problem by problem.

    Attributes:
        correct: [n]; None without right answers.
        ended: [n], whether the answer came to its end.
        agrees: [n], whether it is the answer of the expert's greedy decoding.
    """

    correct: np.ndarray | None
    ended: np.ndarray
    agrees: np.ndarray

    def take(self, places: np.ndarray) -> "Graded":
        """Some of the problems."""
        correct = None if self.correct is None else self.correct[places]
        return Graded(correct, self.ended[places], self.agrees[places])


def foretold(
    expert: Graded,
    amateur: Graded,
    contrastive: dict[tuple[float, float], Graded],
    *,
    max_new_tokens: int,
    seed: int,
) -> Foretold:
    """The verdict, with what belongs beside it.

    Args:
        expert, amateur: greedy decoding.
        contrastive: by `divergence_beta` and `plausibility_alpha`.
        max_new_tokens: of an answer.
        seed: of the halves.

    Raises:
        ValueError: fewer than two problems, of several settings fewer than four.
    """
    rows = [setting_row(key, expert, amateur, own) for key, own in contrastive.items()]
    judged, notes = rows[0], []
    if len(rows) > 1 and expert.correct is not None:
        halves = np.array_split(np.random.default_rng(seed).permutation(len(expert.ended)), 2)
        chosen, other = (
            [
                setting_row(key, expert.take(half), amateur.take(half), own.take(half))
                for key, own in contrastive.items()
            ]
            for half in map(np.sort, halves)
        )
        # the first of equals: the order in which they were named
        best = max(range(len(rows)), key=lambda i: (chosen[i].gain or 0.0, -i))
        judged = other[best]
        notes.append(
            f"divergence_beta {judged.divergence_beta:g} and plausibility_alpha "
            f"{judged.plausibility_alpha:g} are the best of {len(rows)} settings on "
            f"{len(halves[0])} problems, judged on the other {judged.num_problems}"
        )
    notes += _beside(judged, rows[0].amateur_accuracy, rows[0].expert_accuracy)
    cut = (int((~expert.ended).sum()), int((~amateur.ended).sum()))
    if any(cut) or any(row.num_cut for row in rows):
        contrasted = ", ".join(str(row.num_cut) for row in rows)
        notes.append(
            f"answers cut at {max_new_tokens} tokens and taken as they are: {cut[0]} of the "
            f"expert's, {cut[1]} of the amateur's, {contrasted} of contrastive decoding, of "
            f"{len(expert.ended)} each; raise max_new_tokens"
        )
    if judged.verdict is not None:
        notes.append(LIMITS)
    return Foretold(
        **vars(judged),
        settings=tuple(rows),
        notes=tuple(notes),
        num_cut_expert=cut[0],
        num_cut_amateur=cut[1],
    )


def setting_row(
    key: tuple[float, float], expert: Graded, amateur: Graded, contrastive: Graded
) -> ForetoldSetting:
    """The figures of one setting."""
    beta, alpha = key
    about = {
        "divergence_beta": beta,
        "plausibility_alpha": alpha,
        "agreement": float(contrastive.agrees.mean()),
        "num_problems": len(contrastive.ended),
        "num_cut": int((~contrastive.ended).sum()),
    }
    if expert.correct is None or contrastive.correct is None or amateur.correct is None:
        of_labels = (
            "gain low high p verdict amateur_accuracy expert_accuracy accuracy only_greedy "
            "only_contrast detectable"
        )
        return ForetoldSetting(**about, **dict.fromkeys(of_labels.split()))  # type: ignore[arg-type]
    found = compare_accuracy(expert.correct.tolist(), contrastive.correct.tolist(), level=LEVEL)
    return ForetoldSetting(
        **about,  # type: ignore[arg-type]
        gain=found.difference,
        low=found.low,
        high=found.high,
        p=found.p_value,
        verdict=verdict_of(found.only_b - found.only_a, found.num_problems, found.low, found.high),
        amateur_accuracy=float(amateur.correct.mean()),
        expert_accuracy=float(expert.correct.mean()),
        accuracy=float(contrastive.correct.mean()),
        only_greedy=found.only_a,
        only_contrast=found.only_b,
        detectable=found.detectable,
    )


def verdict_of(num_gained: int, num_problems: int, low: float, high: float) -> str:
    """The verdict on one setting.

    Args:
        num_gained: right answers more than by greedy decoding; counted, since 3 points are no
            binary fraction.
        low, high: of the gain's 95 % interval.
    """
    if low > 0 and 100 * num_gained >= LEAST_GAIN * num_problems:
        return "go"
    return "away" if high < 0 else "no evidence"


def _beside(judged: ForetoldSetting, amateur: float | None, expert: float | None) -> Sequence[str]:
    """What must be said beside a verdict, or in place of one."""
    if judged.verdict is None or amateur is None or expert is None:
        return [NOTHING_FORETELLS]
    notes = []
    if amateur == expert == 0:
        notes.append(
            "neither expert nor amateur has a right answer, so nothing is known of them: raise "
            "max_new_tokens where answers are cut, else take easier problems"
        )
    elif amateur >= expert:
        notes.append(
            f"the amateur is at least as accurate as the expert ({amateur:.3f} and {expert:.3f}): "
            "choose a weaker one"
        )
    if judged.num_problems < ENOUGH_PROBLEMS:
        shown = (
            f"no gain would show reliably with {judged.num_problems} problems of which so few "
            "change"
            if judged.detectable is None
            else f"{judged.num_problems} problems of which so many change would show a gain of "
            f"{100 * judged.detectable:.1f} points in 80 % of such comparisons"
        )
        notes.append(shown)
    if judged.num_problems < FEW_PROBLEMS:
        notes.append(
            f"{judged.num_problems} problems are fewer than {FEW_PROBLEMS}: give more before "
            "trusting the verdict"
        )
    return notes
