"""One HTML page of a run, going on or finished, that needs nothing else: no script, no request."""

import base64
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hf_proxy.records.storage import write_text
from hf_proxy.report.absences import absences
from hf_proxy.report.accuracy import accuracy_section
from hf_proxy.report.benchmarks import benchmark_section
from hf_proxy.report.blocks import Block, Download, Section, Table, heading
from hf_proxy.report.contents import RunContents
from hf_proxy.report.curves import curve_section
from hf_proxy.report.mining import FindTokenizer, contrast_section, trajectory_section
from hf_proxy.report.models import ranking_section
from hf_proxy.report.reading import read_run
from hf_proxy.report.summary import head_of
from hf_proxy.report.trace_sets import trace_section
from hf_proxy.report.training import score_sections, training_section
from hf_proxy.report.trajectories import render_page


def write_report(
    folder: str | Path,
    path: str | Path,
    *,
    find_tokenizer: FindTokenizer | None = None,
    tokenizer_at: str | None = None,
    num_rows: int = 3,
) -> dict[str, Any]:
    """Write the report of a run's folder as one file, for light and dark.

    Args:
        folder: `output_dir` of any command of ours; what a reader would miss is said in a line.
        path: of the page.
        find_tokenizer: gives the tokenizer at a path or hub id, or raises `OSError` or
            `ValueError`; None: trajectories are not shown as text.
        tokenizer_at: where to look for it; None: where the set or the run says it is.
        num_rows: trajectories of a set, and problems of an accuracy, to show.

    Returns:
        `sections` and `absent` (names of what a reader would miss), `files` that were read,
        `notes` on what was left out, and `head`: what was `run`, `on` what, what was `found`.

    Raises:
        InputError: nothing of ours is in the folder, or one of our files is not what it should be.
    """
    folders = read_run(folder, num_rows=num_rows)
    downloads: list[Download] = []
    # what came out, then how it came about
    sections = [
        accuracy_section(folders, downloads, num_answers=num_rows),
        benchmark_section(folders),
        *score_sections(folders, downloads),
        ranking_section(folders, downloads),
        curve_section(folders, downloads),
        trace_section(folders, downloads),
        contrast_section(folders, downloads),
        training_section(folders, downloads),
        trajectory_section(folders, find_tokenizer, tokenizer_at),
        _provenance_section(folders),
    ]
    shown = [section for section in sections if section.blocks]
    missing, head = absences(folders), head_of(folders)
    notes = [heading(contents.name, note) for contents in folders for note in contents.notes]
    page = render_page(
        "report.html.jinja",
        title=f"Report of {Path(folder).resolve().name}",
        written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        is_unfinished=any(contents.is_unfinished for contents in folders),
        head=head,
        sections=shown,
        is_long=len(folders) > 1,
        absent=list(missing.values()),
        notes=notes,
        downloads=[(one.name, _data_uri(one), len(one.content)) for one in downloads],
    )
    write_text(Path(path), page)
    return {
        "sections": [section.id for section in shown],
        "absent": list(missing),
        "files": [heading(contents.name, file) for contents in folders for file in contents.files],
        "notes": notes,
        "head": head._asdict(),
    }


def _provenance_section(folders: Sequence[RunContents]) -> Section:
    """Versions and dates beside each other, then each record as it was written."""
    blocks = []
    for contents in folders:
        if not contents.provenance:
            continue
        block = Block(contents.name)
        stamps = {name: stamp for name, stamp in contents.provenance.items() if stamp}
        versions = {name: _dict_or_empty(stamp.get("versions")) for name, stamp in stamps.items()}
        libraries = list(dict.fromkeys(key for own in versions.values() for key in own))
        rows = [["written", *(str(stamp.get("date", "-")) for stamp in stamps.values())]]
        rows += [
            [library, *(str(own.get(library, "-")) for own in versions.values())]
            for library in libraries
        ]
        if stamps:
            block.tables.append(
                Table("Versions of the libraries", ["what", *stamps], rows, is_detail=True)
            )
        for name, stamp in stamps.items():
            rest = {key: value for key, value in stamp.items() if key != "versions"}
            text = json.dumps(rest, indent=2, ensure_ascii=False)
            block.texts.append((f"{name}: settings and counts", text))
        blocks.append(block)
    return Section("provenance", "Provenance", blocks)


def _dict_or_empty(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _data_uri(download: Download) -> str:
    kind = "text/csv" if download.name.endswith(".csv") else "application/json"
    # lone surrogates, which JSON can name, are no UTF-8
    coded = base64.b64encode(download.content.encode(errors="backslashreplace")).decode()
    return f"data:{kind};charset=utf-8;base64,{coded}"
