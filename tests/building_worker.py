"""What each of two processes builds of a local frontier: batches are dealt, the set is one."""

from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import gather_object
from transformers import AutoModelForCausalLM, AutoTokenizer

from hf_proxy import build_traces

EXPERT = Path(__file__).parent.parent / "recipes" / "assets" / "expert"
SETTINGS = {"protocol": "text", "max_new_tokens": 60, "batch_size": 1, "temperature": 0.5}
QUESTIONS = [{"prompt": f"Ada asks: what is {n} plus 2 minus 4?"} for n in range(31, 36)]
# of a protocol the question alone: no other text has this model learnt to answer
TEMPLATE = "{% for turn in messages if turn.role == 'user' %}{{ turn.content.split('\n')[0] }}\n"


def expert():
    """The tiny expert, and its tokenizer."""
    tokenizer = AutoTokenizer.from_pretrained(EXPERT)
    tokenizer.chat_template = TEMPLATE + "{% endfor %}"
    return AutoModelForCausalLM.from_pretrained(EXPERT).eval(), tokenizer


def build(output_dir, accelerator=None, **changes):
    """Traces of the tiny expert."""
    model, tokenizer = expert()
    return build_traces(
        QUESTIONS,
        model,
        tokenizer,
        output_dir=output_dir,
        accelerator=accelerator,
        **SETTINGS | changes,
    )


def work(folder: Path, out: Path) -> dict[str, Any]:
    """What was found; runs are left in `out`."""
    accelerator = Accelerator(cpu=True)
    rows = [dict(row) for row in build(out / "set", accelerator)]
    try:
        build(out / "set", accelerator, seed=1, overwrite=True)
    except Exception as error:
        said = str(error)
    else:
        said = "nothing"
    return {"rows": gather_object([rows]), "said": gather_object([said])}
