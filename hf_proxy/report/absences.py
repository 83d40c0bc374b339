"""What a reader of a report would miss: said only where what is there leads to it."""

from collections.abc import Sequence

from hf_proxy.report.contents import RunContents


def absences(folders: Sequence[RunContents]) -> dict[str, str]:
    """Name to sentence of what is missing."""
    found = {}
    scored = [one for one in folders if one.scores]
    if any(one.state or one.run for one in folders) and not scored and not _tuned(folders):
        found["scores"] = (
            "No proxy scores of this training: ProxyScoreCallback writes them beside its "
            "checkpoints."
        )
    if scored and not any(line["predictions"] for one in scored for line in one.scores):
        found["curves"] = (
            "No accuracy of a large model: that takes a curve (hf-proxy fit), given to "
            "ProxyScoreCallback as curves=."
        )
    trained = [one for one in folders if one.scores or one.run]
    if trained and not any(one.state.get("log_history") for one in trained):
        found["training"] = (
            "No losses by step: they stand in checkpoints that are whole, and there is none here."
        )
    if _tuned(folders) and not any(one.accuracy for one in folders):
        found["accuracy"] = (
            "Whether the tuned model answers better is not measured here: hf-proxy accuracy does."
        )
    is_mined = any(one.mined is not None and not one.mined.name for one in folders)
    if is_mined and not any(one.foretold for one in folders):
        found["foretold"] = (
            "Whether training on these targets will help is not foretold here: hf-proxy contrast "
            "foretell does, on problems with known answers."
        )
    if any(one.curves for one in folders) and any(
        curve.statistics is None for one in folders for curve in one.curves.values()
    ):
        found["held_out"] = (
            "Errors on points held out: too few points of some curve, so that nothing says how far "
            "it holds."
        )
    ranked = [one.ranking["ranking"] for one in folders if one.ranking.get("ranking")]
    if any(ranking["decisions"] is None for ranking in ranked):
        found["decisions"] = (
            "Whether the large model orders them so is not known: hf-proxy rank --target says."
        )
    return found


def _tuned(folders: Sequence[RunContents]) -> bool:
    return any(one.tuned is not None for one in folders)
