"""When to measure: callbacks for `Trainer`."""

from hf_proxy.callbacks.contrast import ContrastCallback
from hf_proxy.callbacks.proxy_score import ProxyScoreCallback

__all__ = ["ContrastCallback", "ProxyScoreCallback"]
