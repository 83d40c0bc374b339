"""When to score: callbacks for `Trainer`."""

from hf_proxy.callbacks.proxy_score import ProxyScoreCallback

__all__ = ["ProxyScoreCallback"]
