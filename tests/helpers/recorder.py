"""A model on the device `meta` stands for one on an accelerator: no numbers, but right places.

PyTorch itself refuses where two devices meet. What a CPU would never show is written down: work in
float64, which some accelerators do not have, and values that the host waits for.
"""

import contextlib
import traceback
from collections import Counter
from pathlib import Path

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

META = torch.device("meta")
PACKAGE = Path(__file__).parents[2]
OURS = (str(PACKAGE / "hf_proxy") + "/", str(PACKAGE / "callbacks") + "/")


class DeviceRecorder(TorchDispatchMode):
    """Counts, by file of ours, what is done on the device.

    What is asked of the device is answered: numbers with `answer(shape)`, one place of each row
    where `nonzero` is asked.

    Attributes:
        float64: operations that give float64.
        host_copies: values that the host waits for.
        of_others: those that a library asks for by itself inside of our call.
    """

    def __init__(self, answer=torch.ones):
        super().__init__()
        self.float64, self.host_copies, self.of_others = Counter(), Counter(), Counter()
        self.answer = answer

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
        if not any(x.device == META for x in tensors):
            found = func(*args, **kwargs)
        elif name == "_local_scalar_dense":
            self._count(self.host_copies)
            kind = tensors[0].dtype
            return 1.0 if kind.is_floating_point else int(kind != torch.bool)
        elif name == "nonzero":
            self._count(self.host_copies)
            shape = tensors[0].shape
            return torch.empty((shape[0], len(shape)), dtype=torch.int64, device=META)
        elif name == "_to_copy" and torch.device(kwargs.get("device") or META).type == "cpu":
            self._count(self.host_copies)
            return self.answer(tensors[0].shape).to(kwargs.get("dtype") or tensors[0].dtype)
        else:
            found = func(*args, **kwargs)
        made = [x for x in tree_leaves(found) if isinstance(x, torch.Tensor)]
        if any(x.device == META and x.dtype == torch.float64 for x in made):
            self._count(self.float64)
        return found

    def _count(self, counter):
        files = [frame.filename for frame in traceback.extract_stack()][:-2]
        # torch works for who called it
        caller = next(f for f in reversed(files) if "/torch/" not in f)
        if caller.startswith(OURS):
            counter[Path(caller).name] += 1
        elif any(f.startswith(OURS) for f in files):
            self.of_others[Path(caller).name] += 1


@contextlib.contextmanager
def autocast_knows_meta(monkeypatch):
    """The two calls that know real devices only."""
    asked = torch.is_autocast_enabled
    made = torch.autocast
    with monkeypatch.context() as patch:
        patch.setattr(torch, "is_autocast_enabled", lambda *a: "meta" not in a and asked(*a))
        patch.setattr(
            torch,
            "autocast",
            lambda kind, *a, **k: (
                contextlib.nullcontext() if kind == "meta" else made(kind, *a, **k)
            ),
        )
        yield
