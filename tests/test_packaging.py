"""The wheel holds what the tree holds, and works without it."""

import json
import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest
from helpers.processes import short

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """A wheel built from a copy of the tree, so that no build folder is left in it."""
    copy = tmp_path_factory.mktemp("tree")
    for name in ("pyproject.toml", "README.md", "LICENSE", "hf_proxy", "callbacks", "recipes"):
        (copy / name).symlink_to(ROOT / name)
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out)]
    subprocess.run([*command, str(copy)], check=True, capture_output=True)
    (path,) = out.glob("*.whl")
    return path


def shipped(tree):
    """What the tree says the package holds."""
    found = set()
    folders = (("hf_proxy", "hf_proxy"), ("callbacks", "hf_proxy/callbacks"))
    for folder, inside in (*folders, ("recipes", "hf_proxy/recipes")):
        for path in (tree / folder).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                found.add(f"{inside}/{path.relative_to(tree / folder)}")
    return found


def test_the_wheel_holds_the_tree(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    inside = {name for name in names if ".dist-info/" not in name}
    assert inside == shipped(ROOT)
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_a_file_that_packages_does_not_list_would_be_noticed(wheel, tmp_path):
    for name in ("hf_proxy", "callbacks", "recipes"):
        (tmp_path / name).mkdir()
    (tmp_path / "hf_proxy" / "forgotten").mkdir()
    (tmp_path / "hf_proxy" / "forgotten" / "__init__.py").write_text("")
    assert "hf_proxy/forgotten/__init__.py" in shipped(tmp_path)
    assert "hf_proxy/forgotten/__init__.py" not in zipfile.ZipFile(wheel).namelist()


def run_elsewhere(command, tmp_path, **environment):
    return subprocess.run(
        command,
        cwd=tmp_path,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_demo_runs_from_the_wheel_and_ends_with_a_table_and_a_page(wheel, tmp_path):
    target = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(target)
    where = [sys.executable, "-c", "import hf_proxy.recipes as r; print(r.__file__)"]
    found = run_elsewhere(where, tmp_path, PYTHONPATH=str(target)).stdout
    assert found.startswith(str(target))
    folder = tmp_path / "demo"
    (folder / "latent-loop").mkdir(parents=True)  # an earlier one was here
    (folder / "latent-loop" / "predictions.jsonl").write_text("not a line")
    (folder / "demo.json").write_text("{}")
    command = [sys.executable, "-m", "hf_proxy.recipes.demo", *short(), "--json"]
    done = run_elsewhere([*command, "--output_dir", folder], tmp_path, PYTHONPATH=str(target))
    assert done.returncode == 0, done.stderr[-3000:]
    text, _, line = done.stdout.rstrip().rpartition("\n")
    found = json.loads(line)
    assert [row["step"] for row in found["loop"]] == [0, 2]
    for row in found["loop"]:
        accuracy = "eval_rbridge_target_accuracy"
        assert 0 <= row[f"{accuracy}_low"] <= row[accuracy] <= row[f"{accuracy}_high"] <= 1
    assert [row["source"] for row in found["rows"]] == 6 * ["Chloé"] + 5 * ["Ada"]
    for row in found["rows"]:
        assert f"{row['source']}, {row['sloppy']:.0%} sloppy" in text and row["expert"] in text
        assert ("gain" in row) == (row["expert"] != "before")
    assert "foretold at beta" in text and "the ability is latent" in text
    for name in ("contrast foretell", "contrast mine", "train", "loop", "accuracy", "report"):
        assert f"hf-proxy {name} --" in text
    page = (folder / "report.html").read_text()
    for section in ("scores", "contrast", "trajectories", "curves", "accuracy", "provenance"):
        assert f'id="{section}"' in page


@pytest.mark.parametrize("how", ["script", "module", "command"])
def test_every_way_to_start_a_recipe(how, tmp_path):
    command = {
        "script": [sys.executable, str(ROOT / "recipes" / "score_checkpoints.py")],
        "module": [sys.executable, "-m", "hf_proxy.recipes.score_checkpoints"],
        "command": [str(Path(sys.executable).parent / "hf-proxy"), "score"],
    }[how]
    done = run_elsewhere([*command, "--help"], tmp_path)
    assert done.returncode == 0, done.stderr
    assert "--minmax_over {trace,dataset,none}" in done.stdout
    assert "nats per token" in done.stdout


USES = """\
import hf_proxy

hf_proxy.score_traces(1, 2, 3, nonsense=True)
hf_proxy.Curve.load(path=1)
"""


def type_errors(tmp_path, python):
    """What mypy finds in a user's file, with the packages of this interpreter."""
    user = tmp_path / "user.py"
    user.write_text(USES)
    options = ["--python-executable", str(python), "--ignore-missing-imports"]
    command = [sys.executable, "-m", "mypy", *options, "--cache-dir", "cache", str(user)]
    return run_elsewhere(command, tmp_path).stdout


def test_a_users_type_checker_knows_the_public_names(wheel, tmp_path):
    venv.create(tmp_path / "venv")
    python = tmp_path / "venv" / "bin" / "python"
    (site,) = (tmp_path / "venv" / "lib").glob("python*/site-packages")
    zipfile.ZipFile(wheel).extractall(site)
    said = type_errors(tmp_path, python)
    assert 'Unexpected keyword argument "nonsense" for "score_traces"' in said
    assert 'Too many positional arguments for "score_traces"' in said
    assert 'Argument "path" to "load" of "Curve" has incompatible type "int"' in said
    # without the marker a checker takes every name for anything
    (site / "hf_proxy" / "py.typed").unlink()
    assert "Success: no issues found" in type_errors(tmp_path, python)
