"""A recipe on several processes after one import, where torchrun would import for each.

python tests/forked_recipe.py 2 recipes/closed_loop.py --FLAG VALUE ...
"""

import runpy
import sys

from ranks_worker import fork
from transformers import AutoModelForCausalLM  # noqa: F401 (imports what children need)
from trl import SFTTrainer  # noqa: F401

import hf_proxy.callbacks  # noqa: F401

if __name__ == "__main__":
    recipe = sys.argv[2]
    if fork(int(sys.argv[1])) is not None:
        sys.argv = sys.argv[2:]
        runpy.run_path(recipe, run_name="__main__")
