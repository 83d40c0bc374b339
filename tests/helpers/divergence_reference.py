"""LightReasoner as arXiv 2510.07962 writes it, in plain float64; imports nothing of hf_proxy."""

import math


def softmax(logits):
    """Probabilities of one step."""
    most = max(logits)
    weights = [math.exp(z - most) for z in logits]
    total = math.fsum(weights)
    return [w / total for w in weights]


def kl(p_expert, p_amateur):
    """KL(expert || amateur), nats."""
    return math.fsum(
        p * (math.log(p) - math.log(q)) for p, q in zip(p_expert, p_amateur, strict=True) if p > 0
    )


def official_kl(p_expert, p_amateur, epsilon=1e-12):
    """The published script's form: both shifted, neither renormalised."""
    return math.fsum(
        (p + epsilon) * (math.log(p + epsilon) - math.log(q + epsilon))
        for p, q in zip(p_expert, p_amateur, strict=True)
    )


def entropy(p):
    """Nats."""
    return -math.fsum(x * math.log(x) for x in p if x > 0)


def target(p_expert, p_amateur, alpha=0.2, temperature=1.0):
    """Token to probability: softmax of the log-ratio over the plausible tokens."""
    least = alpha * max(p_expert)
    mask = [a for a, p in enumerate(p_expert) if p >= least * (1 - 1e-12)]
    score = [(math.log(p_expert[a]) - math.log(p_amateur[a])) / temperature for a in mask]
    return dict(zip(mask, softmax(score), strict=True))
