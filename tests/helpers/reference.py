"""rBridge as arXiv 2509.21013 writes it, in plain float64 loops; imports nothing of hf_proxy.

Everything works on `byte_probability`: for each UTF-8 byte of the trace, the probability of the
frontier token that holds it.
"""

import math


def byte_probabilities(spans, logprobs):
    """The probability of each byte's frontier token, for spans that tile the trace."""
    byte_probability = []
    for (start, stop), logprob in zip(spans, logprobs, strict=True):
        byte_probability += [math.exp(logprob)] * (stop - start)
    return byte_probability


def byte_weight(byte_probability, start, stop):
    """Mean over the bytes `[start, stop)` of a proxy token; an empty token has the next byte's."""
    if start == stop:
        return byte_probability[min(start, len(byte_probability) - 1)]
    return math.fsum(byte_probability[start:stop]) / (stop - start)


def letter_probabilities(trace, byte_probability):
    """`(first byte, one past the last, p)` of each letter; p is the mean over its bytes."""
    letters = []
    at = 0
    for letter in trace:
        size = len(letter.encode())
        letters.append((at, at + size, math.fsum(byte_probability[at : at + size]) / size))
        at += size
    return letters


def letter_weight(trace, byte_probability, start, stop):
    """Mean over the letters of a proxy token; a letter that is cut counts by its covered share."""
    if start == stop:
        start = min(start, len(byte_probability) - 1)
        stop = start + 1
    weighted, shares = [], []
    for first, last, probability in letter_probabilities(trace, byte_probability):
        covered = min(last, stop) - max(first, start)
        if covered > 0:
            weighted.append(covered / (last - first) * probability)
            shares.append(covered / (last - first))
    return math.fsum(weighted) / math.fsum(shares)


def token_weights(trace, byte_probability, spans, unit):
    """w of each proxy token, before min-max."""
    weights = []
    for start, stop in spans:
        if unit == "letter":
            weights.append(letter_weight(trace, byte_probability, start, stop))
        else:
            weights.append(byte_weight(byte_probability, start, stop))
    return weights


def min_max(weights, low, high):
    """w~; weights that are all one, but for rounding, become 1."""
    if high - low < 1e-12:
        return [1.0 for _ in weights]
    return [(weight - low) / (high - low) for weight in weights]


def min_max_over(weights_of_traces, over):
    """w~ of each trace, with the extremes of each trace, of all traces, or without min-max."""
    if over is None:
        return weights_of_traces
    everything = [weight for weights in weights_of_traces for weight in weights]
    scaled = []
    for weights in weights_of_traces:
        extremes = weights if over == "trace" else everything
        scaled.append(min_max(weights, min(extremes), max(extremes)))
    return scaled


def score(nlls, weights, divisor="tokens"):
    """rBridge of one trace: sum of NLL times weight, over the number of tokens or the weights."""
    total = math.fsum(nll * weight for nll, weight in zip(nlls, weights, strict=True))
    return total / (len(nlls) if divisor == "tokens" else math.fsum(weights))


def pooled(nlls_of_traces, weights_of_traces, divisor="tokens"):
    """The same with one division over all tokens of all traces."""
    nlls = [nll for nlls in nlls_of_traces for nll in nlls]
    weights = [weight for weights in weights_of_traces for weight in weights]
    return score(nlls, weights, divisor)
